// A real Prometheus and its promtool, unpacked into build/tools.
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import YAML from 'yaml';
import { freePort, get, root, until } from './harness.mjs';
import { tools } from './kubernetes.mjs';

export const alertsFile = path.join(root, 'helm/bitnet/alerts/bitnet.yaml');
export const alerts = YAML.parse(readFileSync(alertsFile, 'utf8')).groups.flatMap((group) => group.rules);
export const dashboard = JSON.parse(readFileSync(path.join(root, 'helm/bitnet/dashboards/bitnet.json'), 'utf8'));

// What a panel asks, with Grafana's variables as "all" and a range of a minute.
export const panelQueries = dashboard.panels.flatMap((panel) => (panel.targets ?? []).map((target) =>
  ({ panel: panel.title, legend: target.legendFormat, query: target.expr.replaceAll('$__rate_interval', '1m').replace(/\$(namespace|instance|model)/g, '.*') })));

export function promtool(args, input = '') {
  const { status, stdout, stderr } = spawnSync(path.join(tools, 'bin/promtool'), args, { input, encoding: 'utf8' });
  return { status, text: stdout + stderr };
}

// Scrapes `targets` ({job: URL of an admin port}) each second, with the labels that a ServiceMonitor of the release "t" would add, and evaluates the alerts.
export async function startPrometheus(targets) {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'bitnet-prometheus-')), port = await freePort(), url = `http://127.0.0.1:${port}`;
  writeFileSync(path.join(folder, 'prometheus.yml'), YAML.stringify({
    global: { scrape_interval: '1s', scrape_timeout: '1s', evaluation_interval: '1s' },
    rule_files: [alertsFile],
    scrape_configs: Object.entries(targets).map(([job, target]) => ({ job_name: job, static_configs: [{ targets: [new URL(target).host], labels: { namespace: 'ns', pod: `t-${job}-0` } }] })),
  }));
  const child = spawn(path.join(tools, 'bin/prometheus'), [`--config.file=${folder}/prometheus.yml`, `--storage.tsdb.path=${folder}/data`, `--web.listen-address=127.0.0.1:${port}`],
                      { stdio: ['ignore', 'ignore', 'pipe'] });
  let log = '';
  child.stderr.on('data', (data) => { log += data; });
  child.log = () => log;
  process.on('exit', () => child.kill('SIGKILL'));
  await until('Prometheus is ready', 30000, async () => (await get(`${url}/-/ready`)).status === 200, child);
  return { child, url, query: async (expr) => {
    const { json } = await get(`${url}/api/v1/query?query=${encodeURIComponent(expr)}`);
    if (json.status !== 'success') throw new Error(`${expr}: ${json.error}`);
    return json.data.result;
  } };
}
