// The provider of logins for the tests: oidc-provider with its own development pages, on a port of loopback.
//
//   node provider.mjs '{"port": 5000, "client": "quell", "secret": "...", "redirect": "http://.../login/oidc/callback",
//                       "accounts": {"alice": {"preferred_username": "alice", "groups": ["oncall"]}},
//                       "algorithm": "RS256", "told": "token" or "userinfo"}'
//
// Says "ready" once it answers. POST /test/next tells it how the next ID token is spoiled, as a provider that is
// broken or taken over would: {"claims": {...}} replaces claims (null: leaves them out) and signs anew, {"header": {...}}
// replaces the header, {"key": "other"} signs with a key that is not published, {"altered": true} changes what is signed.
// POST /test/accounts replaces the accounts. GET /test/asked tells what Quell asked for since the last time.
import { exportJWK, generateKeyPair, importJWK, SignJWT, decodeJwt, decodeProtectedHeader, UnsecuredJWT } from 'jose';
import Provider from 'oidc-provider';

const given = JSON.parse(process.argv[2]);
const algorithm = given.algorithm ?? 'RS256';
const issuer = `http://127.0.0.1:${given.port}`;

async function key(kid) {
  const { privateKey } = await generateKeyPair(algorithm, { extractable: true });
  return { ...(await exportJWK(privateKey)), kid, use: 'sig', alg: algorithm };
}

// Ids that a restart does not share, so that it is a change of keys.
const started = Date.now().toString(36);
const published = await key(`key-${started}`);
const other = await key(`other-${started}`);
const claims = ['preferred_username', 'groups', 'name', 'email'];

const provider = new Provider(issuer, {
  clients: [{
    client_id: given.client,
    ...(given.secret ? { client_secret: given.secret } : {}),
    token_endpoint_auth_method: given.method ?? (given.secret ? 'client_secret_basic' : 'none'),
    redirect_uris: [given.redirect],
    response_types: ['code'],
    grant_types: ['authorization_code'],
    id_token_signed_response_alg: algorithm,
  }],
  jwks: { keys: [published] },
  cookies: { keys: ['of the tests only'] },
  claims: { openid: ['sub'], profile: claims },
  // By the letter claims are told by userinfo only; many providers put them into the token.
  conformIdTokenClaims: given.told === 'userinfo',
  pkce: { required: () => true },
  enabledJWA: { idTokenSigningAlgValues: ['RS256', 'PS256', 'ES256', 'EdDSA', 'HS256'] },
  features: { devInteractions: { enabled: true }, rpInitiatedLogout: { enabled: true } },
  async findAccount(_context, id) {
    return { accountId: id, claims: async () => ({ sub: id, ...given.accounts[id] }) };
  },
});

let next = null;
let asked = [];

async function spoiled(token, how) {
  const header = { ...decodeProtectedHeader(token), ...how.header };
  const payload = { ...decodeJwt(token), ...how.claims };
  for (const name of Object.keys(payload)) if (payload[name] === null) delete payload[name];
  if (how.altered) {
    const [first, , last] = token.split('.');
    return `${first}.${Buffer.from(JSON.stringify(payload)).toString('base64url')}.${last}`;
  }
  if (header.alg === 'none') return new UnsecuredJWT(payload).encode();
  if (header.alg === 'HS256') {
    return new SignJWT(payload).setProtectedHeader(header).sign(new TextEncoder().encode(given.secret.padEnd(32)));
  }
  const signing = how.key === 'other' ? other : published;
  return new SignJWT(payload).setProtectedHeader(header).sign(await importJWK(signing, algorithm));
}

async function sent(context) {
  let body = '';
  for await (const part of context.req) body += part;
  context.status = 204;
  return JSON.parse(body);
}

// What browsers never ask for.
const ofQuell = new Set(['/.well-known/openid-configuration', '/jwks', '/token', '/me']);

provider.use(async (context, following) => {
  if (context.path === '/test/next') {
    next = await sent(context);
    return;
  }
  if (context.path === '/test/accounts') {
    given.accounts = await sent(context);
    return;
  }
  if (context.path === '/test/asked') {
    context.body = asked;
    asked = [];
    return;
  }
  if (ofQuell.has(context.path)) asked.push(context.path);
  await following();
  if (context.path === '/token' && context.body?.id_token && next) {
    context.body.id_token = await spoiled(context.body.id_token, next);
    next = null;
  }
});

const server = provider.listen(given.port, '127.0.0.1', () => console.log('ready'));
process.on('SIGTERM', () => { server.closeAllConnections(); server.close(() => process.exit(0)); });
