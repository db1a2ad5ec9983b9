// An identity provider for the gateway's tests: node provider.mjs CONFIG.json
// CONFIG: {modules, port, client_id, client_secret, portal, accounts: {login: claims}, keys: path of a JWKS, made if missing}
// Prints `listening PORT`. Anybody in `accounts` logs in with any password, on the provider's own development pages.
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';

const config = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const { default: Provider } = await import(pathToFileURL(`${config.modules}/oidc-provider/lib/index.js`).href);

if (!existsSync(config.keys)) {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const jwk = { ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: 'RS256', kid: randomBytes(4).toString('hex') };
  writeFileSync(config.keys, JSON.stringify({ keys: [jwk] }), { mode: 0o600 });
}

const server = createServer();
server.listen(config.port, '127.0.0.1', () => {
  const { port } = server.address();
  const provider = new Provider(`http://127.0.0.1:${port}`, {
    clients: [{
      client_id: config.client_id,
      client_secret: config.client_secret,
      redirect_uris: [`${config.portal}/login/oidc/back`],
      post_logout_redirect_uris: [`${config.portal}/logged-out`],
    }],
    jwks: JSON.parse(readFileSync(config.keys, 'utf8')),
    cookies: { keys: [randomBytes(16).toString('hex')] },
    pkce: { methods: ['S256'], required: () => true },
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'], groups: ['groups'] },
    scopes: ['openid', 'email', 'profile', 'groups'],
    findAccount: (_ctx, id) => config.accounts[id] && {
      accountId: id,
      claims: () => ({ sub: id, ...config.accounts[id] }),
    },
    ttl: { Session: 3600, Grant: 3600, Interaction: 600, AccessToken: 600, IdToken: 600 },
  });
  server.on('request', provider.callback());
  console.log(`listening ${port}`);
});
process.on('SIGTERM', () => process.exit(0));
