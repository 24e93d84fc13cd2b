// A certified OAuth server (npm oidc-provider) for tests. One line a fact on standard output.
//   PORT=9400 [HOST=127.0.0.1] [TLS_CERT=cert.pem TLS_KEY=key.pem] [CLIENT_CERT=cert.pem]
//   [AT_TTL=3600] [MAILBOX=app@example.test] [REDIRECTS=http://...,http://...]
//   [EMAIL_IN=userinfo|id_token] [ONLY_FROM=10.203.0.2] node oidc.mjs
// ONLY_FROM: the only peer whose token requests are answered.
// EMAIL_IN: where whoever signed in is named, when the scope `email` is asked for.
import { Provider } from 'oidc-provider';
import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createServer as createSecureServer } from 'node:https';

const port = Number(process.env.PORT);
const tls = process.env.TLS_CERT && { cert: readFileSync(process.env.TLS_CERT), key: readFileSync(process.env.TLS_KEY) };
const host = process.env.HOST || '127.0.0.1';
const issuer = `${tls ? 'https' : 'http'}://${host}:${port}`;
const ttl = Number(process.env.AT_TTL || 3600);
const mailbox = process.env.MAILBOX || 'app@example.test';
const redirects = (process.env.REDIRECTS || 'http://127.0.0.1:9/callback').split(',');
const DEVICE = 'urn:ietf:params:oauth:grant-type:device_code';

// Clients that prove themselves by the key of a certificate, one for each way to sign.
const certificate = process.env.CLIENT_CERT && new X509Certificate(readFileSync(process.env.CLIENT_CERT));
const signing = certificate ? ['PS256', 'RS256'].map((alg) => ({
  client_id: `relay-${alg}`, redirect_uris: redirects, response_types: ['code'],
  grant_types: ['client_credentials', 'authorization_code', 'refresh_token', DEVICE],
  scope: 'openid offline_access smtp', token_endpoint_auth_method: 'private_key_jwt',
  token_endpoint_auth_signing_alg: alg, jwks: { keys: [certificate.publicKey.export({ format: 'jwk' })] },
})) : [];

const provider = new Provider(issuer, {
  clients: [
    {
      client_id: 'relay', client_secret: 'relay-secret', redirect_uris: redirects, response_types: ['code'],
      grant_types: ['client_credentials', 'authorization_code', 'refresh_token', DEVICE],
      scope: 'openid offline_access email smtp', token_endpoint_auth_method: 'client_secret_basic',
    },
    {
      client_id: 'relay-post', client_secret: 'relay-post-secret', redirect_uris: [], response_types: [],
      grant_types: ['client_credentials'], scope: 'smtp', token_endpoint_auth_method: 'client_secret_post',
    },
    {
      client_id: 'public', redirect_uris: redirects, response_types: ['code'],
      grant_types: ['authorization_code', 'refresh_token', DEVICE],
      scope: 'openid offline_access smtp', token_endpoint_auth_method: 'none',
    },
    {
      client_id: 'dovecot', client_secret: 'dovecot-secret', redirect_uris: [], response_types: [],
      grant_types: [], token_endpoint_auth_method: 'client_secret_basic',
    },
    ...signing,
  ],
  scopes: ['openid', 'offline_access', 'email', 'smtp'],
  claims: { openid: ['sub'], email: ['email', 'email_verified'] },
  // OpenID Connect Core 5.4: beside an access token the claims of a scope are userinfo's.
  conformIdTokenClaims: process.env.EMAIL_IN !== 'id_token',
  features: {
    devInteractions: { enabled: true }, // the provider's own pages: any user name, any password
    clientCredentials: { enabled: true },
    deviceFlow: { enabled: true },
    revocation: { enabled: true },
    introspection: {
      enabled: true,
      allowedPolicy: (ctx, client, token) => client.clientId === 'dovecot' || token.clientId === client.clientId,
    },
  },
  pkce: { required: () => true },
  findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id, email: id, email_verified: true }) }),
  // A client credentials token has no user: the mailbox is published so that Dovecot can match it.
  extraTokenClaims: (ctx, token) => ({ email: token.kind === 'ClientCredentials' ? mailbox : token.accountId }),
  ttl: {
    AccessToken: ttl, ClientCredentials: ttl, RefreshToken: 86400, DeviceCode: 600, Grant: 86400,
    Session: 86400, Interaction: 3600, IdToken: 3600,
  },
  rotateRefreshToken: true, // and a used one that comes again kills the whole grant
  issueRefreshToken: (ctx, client) => client.grantTypeAllowed('refresh_token'),
  expiresWithSession: () => false,
  cookies: { keys: ['test-only'] },
});

const say = (fact, detail = '') => console.log(`${fact} ${detail}`.trim());
// Whoever sees these lines anywhere else has found a leak.
const issued = new Set();
const secrets = (...values) => values.filter(Boolean).forEach((value) => say('secret', value));
provider.on('grant.success', (ctx) => {
  say('granted', ctx.oidc.params?.grant_type);
  issued.add(ctx.body?.access_token);
  secrets(ctx.body?.access_token, ctx.body?.refresh_token, ctx.body?.id_token);
});
provider.on('device_authorization.success', (ctx, body) => secrets(body?.device_code));
provider.on('grant.error', (ctx, error) => say('refused', `${error.message} ${error.error_detail ?? error.error_description}`));
provider.on('grant.revoked', () => say('grant-revoked'));
provider.on('refresh_token.consumed', () => say('refresh-token-consumed'));
provider.on('introspection.error', (ctx, error) => say('introspection-error', error.message));
provider.on('server_error', (ctx, error) => say('server-error', error.stack));
const answer = provider.callback();
// Graph's sendMail, as far as the way to it matters: how many octets came from whom, with our token.
const sendMail = (req, res, peer) => {
  let octets = 0;
  req.on('data', (piece) => { octets += piece.length; });
  req.on('end', () => {
    const good = issued.has(req.headers.authorization?.replace(/^Bearer /, ''));
    say(good ? 'mail-taken' : 'mail-refused', `${octets} ${peer}`);
    res.writeHead(good ? 202 : 401).end();
  });
};
const guarded = (req, res) => {
  const peer = req.socket.remoteAddress;
  if (req.url.endsWith('/sendMail')) return sendMail(req, res, peer);
  if (req.url !== '/token' || !process.env.ONLY_FROM || peer === process.env.ONLY_FROM) return answer(req, res);
  say('token-asked-by', peer);
  return res.writeHead(403, { 'content-type': 'text/html' }).end('<html>not you</html>');
};
(tls ? createSecureServer(tls, guarded) : createServer(guarded)).listen(port, host, () => say('up', issuer));
