// Microsoft's own Graph client against the practice Graph: whether its answers are what the library
// takes for Graph's. Arguments: URL of the sandbox, client id, client secret, mailbox.
import assert from "node:assert/strict";
import { Client, GraphError, HTTPMessageHandler, ResponseType } from "@microsoft/microsoft-graph-client";

const [url, clientId, clientSecret, mailbox] = process.argv.slice(2);

async function client(scope) {
  const form = { grant_type: "client_credentials", client_id: clientId, client_secret: clientSecret, scope };
  const answer = await fetch(`${url}/token`, { method: "POST", body: new URLSearchParams(form) });
  const { access_token: token } = await answer.json();
  // The library's own login shows a token to https alone; the sandbox is on this machine.
  const graph = Client.initWithMiddleware({ middleware: new HTTPMessageHandler(), baseUrl: `${url}/` });
  return (path) => graph.api(path).header("Authorization", `Bearer ${token}`).header("Content-Type", "text/plain");
}

const mime = (to, from = mailbox) =>
  Buffer.from(`From: ${from}\r\nTo: ${to}\r\nBcc: blind@example.org\r\nSubject: s\r\n\r\nbody\r\n`).toString("base64");

async function refused(request, body, status, code) {
  const error = await request.post(body).then(() => undefined, (error) => error);
  assert.ok(error instanceof GraphError, `not refused: ${code}`);
  assert.equal(error.statusCode, status, error.message);
  assert.equal(error.code, code);
  if (status !== 401) assert.match(error.requestId, /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
}

const path = `/users/${mailbox}/sendMail`;
const graph = await client("https://graph.microsoft.com/.default");
const sent = await graph(path).responseType(ResponseType.RAW).post(mime("a@example.org"));
assert.equal(sent.status, 202);
assert.equal(await sent.text(), "");
await refused(graph(path), "!", 400, "ErrorMimeContentInvalidBase64String");
const nobody = Buffer.from(`From: ${mailbox}\r\n\r\nx\r\n`).toString("base64");
await refused(graph(path), nobody, 400, "ErrorInvalidRecipients");
await refused(graph(path), mime("a@example.org", "other@example.com"), 403, "ErrorSendAsDenied");
await refused(graph("/users/nobody/sendMail"), mime("a@example.org"), 404, "ErrorInvalidUser");
await refused(graph("/me/sendMail"), mime("a@example.org"), 400, "BadRequest");
await refused(graph(path), "A".repeat(4_000_004), 413, "RequestEntityTooLarge");
const outlook = await client("https://outlook.office365.com/.default");
await refused(outlook(path), mime("a@example.org"), 401, "InvalidAuthenticationToken");
console.log("ok");
