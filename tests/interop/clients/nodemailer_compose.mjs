// Composes a message with an attachment of 5 MiB by nodemailer and sends it; body text and attachment are read
// from files. What goes over the wire is written to OUT as well.
//   node nodemailer_compose.mjs PORT TEXT ATTACHMENT OUT
import { readFileSync, writeFileSync } from 'node:fs';
import nodemailer from 'nodemailer';

const [port, text, attachment, out] = process.argv.slice(2);
const composed = await nodemailer.createTransport({ streamTransport: true, buffer: true, newline: 'windows' }).sendMail({
  from: 'Gr\u00fc\u00dfe <app@example.test>', to: 'rcpt@example.org', subject: 'R\u00e9sum\u00e9 \u2713',
  text: readFileSync(text, 'utf8'), attachments: [{ filename: 'd\u00e4ta.bin', content: readFileSync(attachment) }],
});
writeFileSync(out, composed.message);
const transport = nodemailer.createTransport({ host: '127.0.0.1', port: Number(port), ignoreTLS: true });
await transport.sendMail({ envelope: composed.envelope, raw: composed.message });
transport.close();
