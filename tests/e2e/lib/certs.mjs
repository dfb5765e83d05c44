// Certificates for tests, made by openssl in a folder that goes with the process.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';

export const folder = mkdtempSync(path.join(os.tmpdir(), 'bitnet-certs-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));

export const file = (name) => path.join(folder, name);
export const read = (name) => readFileSync(file(name));
const openssl = (...args) => execFileSync('openssl', args, { stdio: 'pipe', cwd: folder });
const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];

// NAME.pem and NAME.key.
export function makeCa(name) {
  openssl('req', '-x509', ...key, '-keyout', `${name}.key`, '-out', `${name}.pem`, '-days', '2', '-subj', `/CN=${name}`);
}

// The same, signed by a CA of makeCa, for this machine's loopback.
export function makeCert(name, ca) {
  writeFileSync(file('names'), 'subjectAltName=DNS:localhost,IP:127.0.0.1\n');
  openssl('req', ...key, '-keyout', `${name}.key`, '-out', 'request', '-subj', `/CN=${name}`);
  openssl('x509', '-req', '-in', 'request', '-CA', `${ca}.pem`, '-CAkey', `${ca}.key`, '-CAcreateserial', '-days', '2', '-extfile', 'names', '-out', `${name}.pem`);
}
