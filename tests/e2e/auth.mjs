// Who may do what: tokens of every algorithm and API keys, with the clients that people use, and all the ways not to get in.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import crypto from 'node:crypto';
import { readFileSync, unlinkSync } from 'node:fs';
import http2 from 'node:http2';
import path from 'node:path';
import OpenAI from 'openai';
import { build, done, get, metric, post, startEngine, startGateway, sleep, stop, test, until } from './lib/harness.mjs';
import { bearer, file, folder, inAWhile, keyPair, makeKey, token } from './lib/tokens.mjs';

const rsa = keyPair('RS256', 'rsa-1'), ec = keyPair('ES256', 'ec-1'), ed = keyPair('EdDSA', 'ed-1');
const stranger = keyPair('ES256', 'ec-1');
const inferenceKey = makeKey('phone-app'), adminKey = makeKey('admin', 'model:read,model:manage');
const jwks = (...pairs) => file('keys.json', JSON.stringify({ keys: pairs.map((pair) => pair.jwk) }));
const apiKeys = (...keys) => file('api-keys', `# clients\n${keys.map((key) => key.line).join('\n')}\n`);
const issuer = 'https://issuer.example', audience = 'bitnet';
const parties = { iss: issuer, aud: audience };

const engine = await startEngine();
async function start(...args) {
  const started = await startGateway(engine.target, args);
  await until('ready', 20000, async () => (await get(`${started.url}/health/ready`)).status === 200);
  return started;
}
const gateway = await start('--jwt-jwks', jwks(rsa, ec, ed), '--api-keys', apiKeys(inferenceKey, adminKey),
                            '--jwt-issuer', issuer, '--jwt-audience', audience);
const { url } = gateway;
const request = { prompt: 'Once upon a time', max_tokens: 2, seed: 7 };
const infer = (headers) => post(`${url}/v1/inference`, request, { headers });
const good = (pair, claims, ...rest) => token(pair, { ...parties, ...claims }, ...rest);
const whole = good(ec);

for (const pair of [rsa, ec, ed])
  await test(`auth: a token of ${pair.alg} gets in`, async () => {
    const reader = bearer(good(pair, { scopes: ['model:read'] }));
    for (const _ of [1, 2]) assert.equal((await infer(reader)).status, 200);
    assert.equal((await get(`${url}/v1/models/tales/status`, { headers: reader })).status, 200);
  });

await test('auth: an API key gets in, in both headers, and with the OpenAI client', async () => {
  assert.equal((await infer(bearer(inferenceKey.key))).status, 200);
  assert.equal((await infer({ 'x-api-key': inferenceKey.key })).status, 200);
  const client = new OpenAI({ apiKey: inferenceKey.key, baseURL: `${url}/v1`, maxRetries: 0 });
  const models = await client.models.list();
  const model = models.data[0].id;
  assert.equal((await client.models.retrieve(model)).object, 'model');
  const stream = await client.chat.completions.create({ model, messages: [{ role: 'user', content: 'Hi' }], max_tokens: 3, stream: true });
  let chunks = 0;
  for await (const _ of stream) chunks++;
  assert.ok(chunks > 1);
  const unknown = new OpenAI({ apiKey: 'bitnet-unknown', baseURL: `${url}/v1`, maxRetries: 0 });
  await assert.rejects(unknown.completions.create({ model, prompt: 'x', max_tokens: 1 }), OpenAI.AuthenticationError);
  const noScope = new OpenAI({ apiKey: good(ec), baseURL: `${url}/v1`, maxRetries: 0 });
  await assert.rejects(noScope.models.retrieve(model), OpenAI.PermissionDeniedError);
});

const rsaSpki = crypto.createPublicKey(rsa.pem);
const confused = (key, header = {}) => token({ alg: 'HS256', kid: rsa.kid, key }, parties, header);
const [head, body, signature] = whole.split('.');
const refused = {
  'nothing': undefined,
  'an empty one': '',
  'not known': 'bitnet-0000',
  'alg none': token({ alg: 'none', kid: ec.kid }, parties),
  'alg none with a signature': `${token({ alg: 'none', kid: ec.kid }, parties)}${signature}`,
  'alg NONE': token({ alg: 'none', kid: ec.kid }, parties, { alg: 'NONE' }) + signature,
  'HS256 with the RSA key as secret (PEM)': confused(rsa.pem),
  'HS256 with the RSA key as secret (PEM, trimmed)': confused(rsa.pem.trim()),
  'HS256 with the RSA key as secret (DER)': confused(rsaSpki.export({ type: 'spki', format: 'der' })),
  'HS256 with the modulus as secret': confused(Buffer.from(rsa.jwk.n, 'base64url')),
  'HS256 that says RS256': token({ alg: 'HS256', kid: rsa.kid, key: rsa.pem }, parties, { alg: 'RS256' }, 'HS256'),
  'RS512': token({ alg: 'RS256', kid: rsa.kid, key: rsa.key }, parties, { alg: 'RS512' }),
  'EdDSA that says ES256': token({ ...ed, kid: ec.kid }, parties, { alg: 'ES256' }, 'EdDSA'),
  'expired': good(ec, { exp: inAWhile() - 700 }),
  'without exp': good(ec, { exp: undefined }),
  'not valid yet': good(ec, { nbf: inAWhile() }),
  'issued in the future': good(ec, { iat: inAWhile() }),
  'of another issuer': good(ec, { iss: 'https://evil.example' }),
  'for another audience': good(ec, { aud: ['others'] }),
  'of nobody': good(ec, { sub: undefined }),
  'of a stranger with our kid': token(stranger, parties),
  'an unknown kid': good(ec, {}, { kid: 'ec-2' }),
  'the kid of another key': good(ec, {}, { kid: rsa.kid }),
  'a kid that is a path': good(ec, {}, { kid: '../../dev/null' }),
  'a key of its own': good(stranger, {}, { jwk: stranger.jwk, jku: 'http://127.0.0.1:1/keys' }),
  'crit': good(ec, {}, { crit: ['exp'] }),
  'zip': good(ec, {}, { zip: 'DEF' }),
  'a changed payload': `${head}.${Buffer.from(JSON.stringify({ ...parties, sub: 'admin', exp: inAWhile() })).toString('base64url')}.${signature}`,
  'a changed header': `${Buffer.from('{"alg":"ES256"}').toString('base64url')}.${body}.${signature}`,
  'a changed signature': `${head}.${body}.${(signature[0] === 'A' ? 'B' : 'A') + signature.slice(1)}`,
  'a cut signature': `${head}.${body}.${signature.slice(0, -4)}`,
  'a longer signature': `${head}.${body}.${signature}AAAA`,
  'five parts': `${whole}.AAAA.AAAA`,
  'padding': `${whole}=`,
  'a payload that is no JSON': token(ec).replace(/\.[^.]*\./, `.${Buffer.from('{').toString('base64url')}.`),
  'deep nesting': `${Buffer.from('['.repeat(600)).toString('base64url')}.${body}.${signature}`,
  'nine thousand bytes': `${head}.${'A'.repeat(9000)}.${signature}`,
  'a NUL in its name': good(ec, { client_id: 'a\0b' }),
  'a name without end': good(ec, { client_id: 'a'.repeat(129) }),
};

await test(`auth: ${Object.keys(refused).length} tokens that are none do not get in`, async () => {
  for (const [what, credential] of Object.entries(refused)) {
    const answer = await infer(credential === undefined ? {} : bearer(credential));
    assert.equal(answer.status, 401, what);
    assert.equal(answer.json.error.code, 'AUTHENTICATION_REQUIRED', what);
    assert.equal(answer.json.error.type, 'authentication_error', what);
    assert.match(answer.headers.get('www-authenticate'),
                 credential === undefined ? /^Bearer realm="bitnetd"$/ : /^Bearer realm="bitnetd", error="invalid_token", error_description="[^"]+"$/, what);
  }
  assert.equal((await infer(bearer(whole))).status, 200);
  assert.equal(await metric(gateway.admin, 'bitnet_admission_rejections_total', { reason: 'auth' }) >= Object.keys(refused).length, true);
});

await test('auth: 150 random credentials leave the server as it was', async () => {
  for (let i = 0; i < 150; i++) {
    const bytes = crypto.randomBytes(1 + i * 14);
    const text = i % 3 ? bytes.toString('base64url') : bytes.toString('latin1').replace(/[^\x21-\x7e]/g, '.');
    const at = Math.floor(text.length / 3);
    const answer = await infer(bearer(i % 2 ? text : `${text.slice(0, at)}.${text.slice(at, 2 * at)}.${text.slice(2 * at)}`));
    assert.ok([401, 431].includes(answer.status), `${answer.status}`);
  }
  assert.equal((await infer(bearer(whole))).status, 200);
});

await test('auth: scopes open what they name, and nothing else', async () => {
  const call = async (method, to, credential) =>
    (await fetch(url + to, { method, headers: { ...(credential ? bearer(credential) : {}), ...(method === 'POST' ? { 'content-type': 'application/json' } : {}) },
                             body: method === 'POST' ? '{}' : undefined })).status;
  const none = good(ec), read = good(ec, { scopes: ['model:read'] }), write = good(ec, { scope: 'openid model:write' });
  const manage = good(rsa, { scopes: 'model:manage' });
  const calls = [['GET', '/v1/models/tales/status', 'read'], ['POST', '/v1/models/load', 'write'], ['POST', '/v1/models/swap', 'manage'],
                 ['DELETE', '/v1/models/nothing', 'manage']];
  for (const [method, to, scope] of calls) {
    assert.equal(await call(method, to), 401, to);
    for (const [name, credential] of Object.entries({ none, read, write, manage, key: inferenceKey.key })) {
      const status = await call(method, to, credential);
      assert.equal(![401, 403].includes(status), name === scope, `${method} ${to} with ${name}: ${status}`);
    }
  }
  assert.notEqual(await call('DELETE', '/v1/models/nothing', adminKey.key), 403);
  assert.equal(await call('POST', '/v1/models/load', adminKey.key), 403);
  for (const open of ['/health/live', '/health/ready']) assert.equal(await call('GET', open), 200);
  const answer = await post(`${url}/v1/models/load`, {}, { headers: bearer(read) });
  assert.equal(answer.json.error.code, 'AUTHORIZATION_FAILED');
  assert.equal(answer.headers.get('www-authenticate'), 'Bearer realm="bitnetd", error="insufficient_scope", scope="model:write"');
});

await test('auth: strangers see the models as OpenAI shows them, readers see all', async () => {
  for (const headers of [{}, bearer(inferenceKey.key), bearer(good(ec))]) {
    const { json, text } = await get(`${url}/v1/models`, { headers });
    assert.deepEqual(Object.keys(json).sort(), ['data', 'object']);
    assert.deepEqual(Object.keys(json.data[0]).sort(), ['created', 'id', 'object', 'owned_by']);
    assert.ok(!text.includes('.gguf'));
  }
  const { json } = await get(`${url}/v1/models`, { headers: bearer(good(ec, { scopes: ['model:read'] })) });
  assert.equal(json.models[0].status, 'active');
  assert.equal((await get(`${url}/v1/models`, { headers: bearer('bitnet-0000') })).status, 401);
});

await test('auth: strangers see whether the server is well, clients also what it is', async () => {
  const few = ['components', 'status', 'timestamp'];
  assert.deepEqual(Object.keys((await get(`${url}/health`)).json).sort(), few);
  assert.ok((await get(`${url}/health`, { headers: bearer(inferenceKey.key) })).json.system_metrics);
  assert.ok((await get(`${gateway.admin}/health`)).json.build);
});

await test('auth: HTTP/2 asks for the same', async () => {
  const session = http2.connect(url);
  const ask = (headers) => new Promise((resolve, reject) => {
    const stream = session.request({ ':method': 'GET', ':path': '/v1/models/tales/status', ...headers });
    stream.on('response', (answer) => { stream.resume(); resolve(answer); }).on('error', reject);
  });
  assert.equal((await ask({}))[':status'], 401);
  assert.match((await ask({}))['www-authenticate'], /^Bearer/);
  assert.equal((await ask(bearer(good(ed, { scopes: ['model:read'] }))))[':status'], 200);
  session.close();
});

await test('auth: the log names the client and holds no credential', async () => {
  await infer(bearer(good(ec, { client_id: 'the-log-test' })));
  const log = gateway.child.log();
  const line = log.split('\n').filter(Boolean).map((l) => JSON.parse(l)).find((l) => l.client === 'the-log-test');
  assert.equal(line.auth, 'jwt');
  assert.equal(line.status, 200);
  for (const secret of [whole, signature, inferenceKey.key, adminKey.key]) assert.ok(!log.includes(secret));
});

await test('auth: files that change are read, broken ones leave what was there', async () => {
  const second = keyPair('ES256', 'ec-2'), newKey = makeKey('new');
  jwks(ec, second);
  apiKeys(newKey);
  await until('the new keys', 5000, async () => (await infer(bearer(newKey.key))).status === 200);
  assert.equal((await infer(bearer(good(second)))).status, 200);
  assert.equal((await infer(bearer(inferenceKey.key))).status, 401);
  assert.equal((await infer(bearer(good(rsa)))).status, 401);
  file('keys.json', '{"keys": [');
  file('api-keys', 'nonsense');
  gateway.child.kill('SIGHUP');
  await until('the log', 5000, async () => /API keys kept[^\n]*line 1/.test(gateway.child.log()));
  assert.match(gateway.child.log(), /token keys kept/);
  assert.equal((await infer(bearer(good(second)))).status, 200);
  assert.equal((await infer(bearer(newKey.key))).status, 200);
  unlinkSync(path.join(folder, 'api-keys'));
  await sleep(1100);
  assert.equal((await infer(bearer(newKey.key))).status, 200);
});
await stop(gateway.child);

await test('auth: HS256 with a secret, and PEM keys, by file', async () => {
  const secret = { alg: 'HS256', key: 'a secret of at least thirty-two bytes' };
  const one = await start('--jwt-key', file('secret', `${secret.key}\n`), '--jwt-alg', 'HS256');
  assert.equal((await post(`${one.url}/v1/inference`, request, { headers: bearer(token(secret)) })).status, 200);
  assert.equal((await post(`${one.url}/v1/inference`, request, { headers: bearer(token({ ...secret, key: `${secret.key}\n` })) })).status, 401);
  await stop(one.child);
  const two = await start('--jwt-key', file('rsa.pem', rsa.pem));
  assert.equal((await post(`${two.url}/v1/inference`, request, { headers: bearer(token(rsa)) })).status, 200);
  assert.equal((await post(`${two.url}/v1/inference`, request, { headers: bearer(token({ alg: 'HS256', key: rsa.pem })) })).status, 401);
  await stop(two.child);
});

await test('auth: without keys inference is open and management is not', async () => {
  const open = await start();
  assert.equal((await post(`${open.url}/v1/inference`, request)).status, 200);
  assert.ok((await get(`${open.url}/v1/models`)).json.models);
  for (const [method, to] of [['POST', '/v1/models/load'], ['POST', '/v1/models/swap'], ['DELETE', '/v1/models/tales']]) {
    const answer = await get(open.url + to, { method, headers: { 'content-type': 'application/json', ...bearer(whole) }, body: method === 'POST' ? '{}' : undefined });
    assert.equal(answer.status, 403);
    assert.match(answer.json.error.message, /--api-keys, --jwt-key or --jwt-jwks/);
  }
  await stop(open.child);
});

await test('auth: what cannot hold does not start, and says why', async () => {
  const run = (...args) => spawnSync(path.join(build, 'bitnet-gateway'), ['--listen', '127.0.0.1:0', '--admin-listen', '', ...args], { encoding: 'utf8', timeout: 10000 });
  const cases = [
    [['--jwt-key', '/nowhere/key.pem'], /\/nowhere\/key\.pem: No such file/],
    [['--jwt-key', file('short', 'secret'), '--jwt-alg', 'HS256'], /at least 32 bytes, found 6/],
    [['--jwt-key', file('ec.pem', ec.pem), '--jwt-alg', 'RS256'], /expected a key for RS256, found one for ES256/],
    [['--jwt-key', file('ec.pem', ec.pem), '--jwt-alg', 'HS256'], /expected the secret of HS256, found a PEM key/],
    [['--jwt-alg', 'none'], /expected one of auto\|HS256/],
    [['--api-keys', file('bad-keys', 'alice secret\n')], /bad-keys: line 1: expected sha256:/],
    [['--cors-origins', 'https://a.example/'], /cors-origins: expected origins/],
    [['--trusted-proxies', '10.0.0.0/33'], /trusted-proxies: expected/],
  ];
  for (const [args, why] of cases) {
    const { status, stderr } = run(...args);
    assert.equal(status, 1, args.join(' '));
    assert.match(stderr, why);
  }
  const usage = spawnSync(path.join(build, 'bitnet-gateway'), ['make-key'], { encoding: 'utf8' });
  assert.equal(usage.status, 1);
  assert.match(usage.stderr, /usage: bitnet-gateway make-key NAME/);
  assert.ok(!readFileSync(path.join(folder, 'bad-keys'), 'utf8').includes(inferenceKey.key));
});

await done();
