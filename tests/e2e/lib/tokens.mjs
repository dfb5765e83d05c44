// Keys and tokens for the end-to-end tests, made with node:crypto, and a folder for the files that hold them.
import { execFileSync } from 'node:child_process';
import crypto from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { build } from './harness.mjs';

export const folder = mkdtempSync(path.join(os.tmpdir(), 'bitnet-tokens-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));

export const file = (name, content) => {
  const to = path.join(folder, name);
  writeFileSync(to, content);
  return to;
};

const base64 = (value) => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url');
const signers = {
  HS256: (key, data) => crypto.createHmac('sha256', key).update(data).digest(),
  RS256: (key, data) => crypto.sign('sha256', data, key),
  ES256: (key, data) => crypto.sign('sha256', data, { key, dsaEncoding: 'ieee-p1363' }),
  EdDSA: (key, data) => crypto.sign(null, data, key),
  none: () => Buffer.alloc(0),
};

// A key pair with its kid; `jwk` is the public half.
export function keyPair(alg, kid) {
  const pair = alg === 'RS256' ? crypto.generateKeyPairSync('rsa', { modulusLength: 2048 })
    : alg === 'ES256' ? crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' }) : crypto.generateKeyPairSync('ed25519');
  return { alg, kid, key: pair.privateKey, pem: pair.publicKey.export({ type: 'spki', format: 'pem' }),
           jwk: { ...pair.publicKey.export({ format: 'jwk' }), kid, alg, use: 'sig' } };
}

export const inAWhile = () => Math.floor(Date.now() / 1000) + 600;

// A token; `claims` and `header` go over what is usual, `sign` over the algorithm that really signs.
export function token({ alg, kid, key }, claims = {}, header = {}, sign = alg) {
  const data = `${base64({ alg, typ: 'JWT', kid, ...header })}.${base64({ sub: 'carol', exp: inAWhile(), ...claims })}`;
  return `${data}.${signers[sign](key, data).toString('base64url')}`;
}

// A new API key and its line, as the program makes them.
export function makeKey(...args) {
  const [key, line] = execFileSync(path.join(build, 'bitnet-gateway'), ['make-key', ...args], { encoding: 'utf8' }).trim().split('\n');
  return { key, line };
}

export const bearer = (credential) => ({ authorization: `Bearer ${credential}` });
