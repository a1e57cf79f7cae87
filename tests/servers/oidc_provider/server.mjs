// A token endpoint that takes client assertions only: oidc-provider, at the paths where Entra ID has its own, and once
// more as an issuer without a path. Both know the same clients.
//
// Usage: node server.mjs CONFIG, a JSON file {port, keyFile, certificateFile, tenant, scope, algorithms,
// clients: [CLIENT...]}, where CLIENT is {client_id, algorithm, jwks, matching} and port 0 means any free one.
// `matching` is how the key is found: "all" tries all keys of the JWKS, as oidc-provider does; "nimbus" and "kid" first
// require what the functions of these names below require.
//
// Standard input:  a line CLIENT each registers one more, or replaces it. At its end the server ends too, so that it never
//                  outlives who started it, however that one died.
// Standard output: {port} when ready; {registered} or {rejected, reason} for each line read; {refused, client_id, reason}
//                  for each request that was refused, before the answer to it is sent.

import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { readFileSync, writeSync } from 'node:fs';
import { createServer } from 'node:https';
import { createInterface } from 'node:readline';

import { compactVerify, decodeProtectedHeader, importJWK } from 'jose';
import { Provider } from 'oidc-provider';

// oidc-provider's notices go to console.info; standard output belongs to the protocol above.
console.info = console.error;

const config = JSON.parse(readFileSync(process.argv[2], 'utf8'));

// Synchronous: what was written is there for the reader before anything that happens after it.
function say(message) {
  writeSync(1, `${JSON.stringify(message)}\n`);
}

function signingKey() {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return { ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: 'ES256' };
}

function providerConfiguration(routes) {
  return {
    routes,
    clientAuthMethods: ['private_key_jwt'],
    clientDefaults: { id_token_signed_response_alg: 'ES256' },
    clockTolerance: 0,
    cookies: { keys: [randomBytes(32).toString('hex')] },
    enabledJWA: { clientAuthSigningAlgValues: config.algorithms },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => 'urn:keyvouch:resource',
        getResourceServerInfo: () => ({
          scope: config.scope,
          accessTokenFormat: 'jwt',
          accessTokenTTL: 3600,
          jwt: { sign: { alg: 'ES256' } },
        }),
      },
    },
    jwks: { keys: [signingKey()] },
    scopes: [config.scope],
  };
}

function metadata({ client_id, algorithm, jwks }) {
  return {
    client_id,
    token_endpoint_auth_method: 'private_key_jwt',
    token_endpoint_auth_signing_alg: algorithm,
    grant_types: ['client_credentials'],
    redirect_uris: [],
    response_types: [],
    jwks,
  };
}

// Of the clients whose key must match first.
const matched = new Map();

async function register(providers, client) {
  for (const provider of providers) {
    await provider.Client.validate(metadata(client));
    await provider.Client.adapter.upsert(client.client_id, metadata(client));
  }
  matched.set(client.client_id, client);
}

const KEY_TYPES = { R: 'RSA', P: 'RSA', E: 'EC' };

// As JWKMatcher.forJWSHeader of Nimbus JOSE + JWT, which Spring Authorization Server uses: each of kid and x5t#S256 that
// the header has must be in the JWK; use and alg of the JWK may be absent.
function nimbus(header, keys) {
  return keys.filter((key) => key.kty === (header.alg === 'EdDSA' ? 'OKP' : KEY_TYPES[header.alg[0]])
    && (header.kid === undefined || key.kid === header.kid)
    && (header['x5t#S256'] === undefined || key['x5t#S256'] === header['x5t#S256'])
    && (key.use === undefined || key.use === 'sig')
    && (key.alg === undefined || key.alg === header.alg));
}

// As Keycloak and fosite: the key with this kid; without a kid only the first.
function kid(header, keys) {
  return header.kid === undefined ? keys.slice(0, 1) : keys.filter((key) => key.kid === header.kid);
}

const MATCHING = { nimbus, kid };

async function verifies(assertion, key, alg) {
  try {
    await compactVerify(assertion, await importJWK(key, alg));
    return true;
  } catch {
    return false;
  }
}

// Returns the client's id if no key that its matching finds verifies the assertion. oidc-provider checks everything else.
async function unmatched(body) {
  const assertion = new URLSearchParams(body).get('client_assertion') ?? '';
  const client = matched.get(new URLSearchParams(body).get('client_id'));
  if (!client || client.matching === 'all' || assertion.split('.').length !== 3) return undefined;
  const header = decodeProtectedHeader(assertion);
  for (const key of MATCHING[client.matching](header, client.jwks.keys)) {
    if (await verifies(assertion, key, header.alg)) return undefined;
  }
  return client.client_id;
}

async function registerLine(providers, line) {
  const client = JSON.parse(line);
  try {
    await register(providers, client);
    say({ registered: client.client_id });
  } catch (error) {
    say({ rejected: client.client_id, reason: error.error_description ?? error.message });
  }
}

function reportRefusals(provider) {
  for (const event of ['grant.error', 'server_error']) {
    provider.on(event, (ctx, error) => {
      // The answer says "client authentication failed" whatever it was; the detail says what.
      const reason = error.error_detail ?? error.error_description ?? error.stack;
      say({ refused: event, client_id: ctx.oidc?.params?.client_id, reason });
    });
  }
}

async function readBody(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

function refuse(response, client_id) {
  say({ refused: 'matching', client_id, reason: 'no key of the client matches the header' });
  response.writeHead(401, { 'content-type': 'application/json' });
  response.end(JSON.stringify({ error: 'invalid_client', error_description: 'client authentication failed' }));
}

// oidc-provider has its discovery document at the root only.
function handler(provider, root) {
  const [handle, handleRoot] = [provider.callback(), root.callback()];
  const prefix = `/${config.tenant}/`;
  return async (request, response) => {
    if (request.method === 'POST') {
      request.body = await readBody(request);
      const client_id = await unmatched(request.body);
      if (client_id) return refuse(response, client_id);
    }
    if (!request.url.startsWith(prefix)) return handleRoot(request, response);
    request.url = request.url.replace(`${prefix}v2.0/.well-known/`, '/.well-known/');
    return handle(request, response);
  };
}

async function listen() {
  const server = createServer({ key: readFileSync(config.keyFile), cert: readFileSync(config.certificateFile) });
  await new Promise((resolve, reject) => {
    server.once('error', reject).listen(config.port, '127.0.0.1', resolve);
  });
  return server;
}

// The port comes before the provider, whose name (the issuer) contains it.
const server = await listen();
const { port } = server.address();
const provider = new Provider(
  `https://localhost:${port}/${config.tenant}/v2.0`,
  providerConfiguration({ token: `/${config.tenant}/oauth2/v2.0/token`, jwks: `/${config.tenant}/discovery/v2.0/keys` }),
);
const root = new Provider(`https://localhost:${port}`, providerConfiguration({ token: '/token', jwks: '/jwks' }));
const providers = [provider, root];
providers.forEach(reportRefusals);
for (const client of config.clients) {
  await register(providers, client);
}
server.on('request', handler(provider, root));
createInterface({ input: process.stdin })
  .on('line', (line) => registerLine(providers, line))
  .on('close', () => process.exit(0));
say({ port });
