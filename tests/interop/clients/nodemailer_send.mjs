// Sends the message on standard input by nodemailer.
//   node nodemailer_send.mjs PORT none|starttls|tls CA.pem [USER PASSWORD [PLAIN|LOGIN]]
import { readFileSync } from 'node:fs';
import nodemailer from 'nodemailer';

const [port, tls, ca, user, pass, method] = process.argv.slice(2);
const transport = nodemailer.createTransport({
  host: 'localhost', port: Number(port), secure: tls === 'tls',
  requireTLS: tls === 'starttls', ignoreTLS: tls === 'none',
  tls: { ca: readFileSync(ca) },
  auth: user ? { user, pass } : undefined, authMethod: method,
});
const raw = readFileSync(0);
await transport.sendMail({ envelope: { from: 'app@example.test', to: ['rcpt@example.org'] }, raw });
transport.close();
