// A token endpoint that takes client assertions only: oidc-provider, at the paths where Entra ID has its own.
//
// Usage: node server.mjs CONFIG, a JSON file {port, keyFile, certificateFile, tenant, scope, clients: [CLIENT...]}, where
// CLIENT is {client_id, algorithm, jwk} and port 0 means any free one.
//
// Standard input:  a line CLIENT each registers one more, or replaces it. At its end the server ends too, so that it never
//                  outlives who started it, however that one died.
// Standard output: {port} when ready; {registered} or {rejected, reason} for each line read; {refused, client_id, reason}
//                  for each request that was refused, before the answer to it is sent.

import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { readFileSync, writeSync } from 'node:fs';
import { createServer } from 'node:https';
import { createInterface } from 'node:readline';

import { Provider } from 'oidc-provider';

// oidc-provider's notices go to console.info; standard output belongs to the protocol above.
console.info = console.error;

const config = JSON.parse(readFileSync(process.argv[2], 'utf8'));

const ALGORITHMS = [
  ...['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512'],
  ...['ES256', 'ES384', 'ES512', 'EdDSA'],
];

// Synchronous: what was written is there for the reader before anything that happens after it.
function say(message) {
  writeSync(1, `${JSON.stringify(message)}\n`);
}

function signingKey() {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return { ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: 'ES256' };
}

function providerConfiguration() {
  return {
    routes: { token: `/${config.tenant}/oauth2/v2.0/token`, jwks: `/${config.tenant}/discovery/v2.0/keys` },
    clientAuthMethods: ['private_key_jwt'],
    clientDefaults: { id_token_signed_response_alg: 'ES256' },
    clockTolerance: 0,
    cookies: { keys: [randomBytes(32).toString('hex')] },
    enabledJWA: { clientAuthSigningAlgValues: ALGORITHMS },
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

function metadata({ client_id, algorithm, jwk }) {
  return {
    client_id,
    token_endpoint_auth_method: 'private_key_jwt',
    token_endpoint_auth_signing_alg: algorithm,
    grant_types: ['client_credentials'],
    redirect_uris: [],
    response_types: [],
    jwks: { keys: [jwk] },
  };
}

async function register(provider, client) {
  await provider.Client.validate(metadata(client));
  await provider.Client.adapter.upsert(client.client_id, metadata(client));
}

async function registerLine(provider, line) {
  const client = JSON.parse(line);
  try {
    await register(provider, client);
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

// oidc-provider has its discovery document at the root only.
function handler(provider) {
  const handle = provider.callback();
  const prefix = `/${config.tenant}/v2.0/.well-known/`;
  return (request, response) => {
    if (request.url.startsWith(prefix)) {
      request.url = `/.well-known/${request.url.slice(prefix.length)}`;
    }
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
const provider = new Provider(`https://localhost:${port}/${config.tenant}/v2.0`, providerConfiguration());
reportRefusals(provider);
for (const client of config.clients) {
  await register(provider, client);
}
server.on('request', handler(provider));
createInterface({ input: process.stdin })
  .on('line', (line) => registerLine(provider, line))
  .on('close', () => process.exit(0));
say({ port });
