// What Prometheus makes of the product: promtool finds nothing to say of both pages, every alert fires where it should, and a real Prometheus scrapes a
// running pair, evaluates the alerts and answers the dashboard's questions.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import YAML from 'yaml';
import { done, get, post, root, startPair, stop, test, until } from './lib/harness.mjs';
import { cases, find, haveHelm, render } from './lib/helm.mjs';
import { alerts, alertsFile, panelQueries, promtool, startPrometheus } from './lib/prometheus.mjs';

const testsFile = path.join(root, 'tests/helm/alerts.test.yaml');

await test('prometheus: the alerts are rules that promtool takes', () => {
  const { status, text } = promtool(['check', 'rules', alertsFile]);
  assert.equal(status, 0, text);
});

await test('prometheus: every alert fires where it should, and only there', () => {
  const { status, text } = promtool(['test', 'rules', testsFile]);
  assert.equal(status, 0, text);
  const tests = YAML.parse(readFileSync(testsFile, 'utf8')).tests.flatMap((t) => t.alert_rule_test);
  for (const { alert } of alerts) {
    const mine = tests.filter((t) => t.alertname === alert);
    assert.ok(mine.some((t) => t.exp_alerts.length > 0), `no test fires ${alert}`);
    assert.ok(mine.some((t) => t.exp_alerts.length === 0) , `no test keeps ${alert} silent`);
  }
});

await test('prometheus: every alert has a severity, a summary and its runbook', () => {
  const operations = readFileSync(path.join(root, 'docs/operations.md'), 'utf8');
  for (const { alert, labels, annotations } of alerts) {
    assert.ok(['critical', 'warning'].includes(labels.severity) && annotations.summary, alert);
    assert.equal(annotations.runbook, `docs/operations.md#${alert.toLowerCase()}`);
    assert.match(operations, new RegExp(`^### ${alert}$`, 'm'), `docs/operations.md has no runbook of ${alert}`);
  }
});

const { engine, gateway } = await startPair();
const prometheus = await startPrometheus({ 'bitnet-engine': engine.admin, 'bitnet-gateway': gateway.admin });
const ask = () => post(`${gateway.url}/v1/inference`, { prompt: 'Once upon a time', max_tokens: 16 });

await test('prometheus: promtool has nothing to say of both pages', async () => {
  await ask();
  for (const { admin } of [engine, gateway]) {
    const { status, text } = promtool(['check', 'metrics'], (await get(`${admin}/metrics`)).text);
    assert.equal(`${status} ${text}`, '0 ', admin);
  }
  // And it would: a counter without _total, and no help.
  assert.notEqual(promtool(['check', 'metrics'], '# TYPE planted counter\nplanted 1\n').status, 0);
});

await test('prometheus: it scrapes the pair, and the figures are those of the requests', async () => {
  await until('both are up', 20000, async () => (await prometheus.query('up == 1')).length === 2);
  const value = async (expr) => Number((await prometheus.query(expr))[0]?.value[1]);
  const before = await value('sum(bitnet_tokens_generated_total)');
  for (let i = 0; i < 5; i++) assert.equal((await ask()).status, 200);
  await until('the tokens are counted', 20000, async () => await value('sum(bitnet_tokens_generated_total)') === before + 80);
  await until('the requests are counted', 20000, async () => await value('bitnet_requests_total{endpoint="/v1/inference",status="200"}') >= 6);
  assert.ok(await value('histogram_quantile(0.95, sum by (le) (bitnet_time_to_first_token_seconds_bucket))') > 0);
});

if (!haveHelm) console.log('skip prometheus: the autoscaler: helm is not here');
else await test('prometheus: the autoscaler\'s question has an answer', async () => {
  const { objects } = await render(cases.keda), [trigger] = find(objects, 'ScaledObject', 't-bitnet-engine').spec.triggers;
  assert.deepEqual((await prometheus.query(trigger.metadata.query)).map((series) => series.value[1]), ['0']);
});

await test('prometheus: it answers what every panel of the dashboard asks, most with figures', async () => {
  await new Promise((resolve) => setTimeout(resolve, 2500)); // a rate needs two samples
  await ask();
  const silent = [];
  for (const { panel, legend, query } of panelQueries) if ((await prometheus.query(query)).length === 0) silent.push(`${panel}: ${legend}`);
  console.log(`  # ${panelQueries.length - silent.length} of ${panelQueries.length} queries have figures; none of: ${silent.join('; ')}`);
  assert.ok(silent.length < panelQueries.length / 4, silent.join('\n'));
});

await test('prometheus: it evaluates every alert, none fires, and one does when the engine is gone', async () => {
  const rules = async () => (await get(`${prometheus.url}/api/v1/rules`)).json.data.groups.flatMap((group) => group.rules);
  await until('all are evaluated', 20000, async () => (await rules()).every((rule) => rule.health === 'ok'));
  const list = await rules();
  assert.equal(list.length, alerts.length);
  assert.deepEqual(list.filter((rule) => rule.state === 'firing').map((rule) => rule.name), []);
  await stop(engine.child);
  await until('BitnetDown waits for its minute', 20000, async () => (await rules()).find((rule) => rule.name === 'BitnetDown').state === 'pending');
  const { text } = await get(`${prometheus.url}/api/v1/alerts`);
  assert.match(text, /bitnet-engine 127\.0\.0\.1:\d+ does not answer/);
});

prometheus.child.kill();
await stop(gateway.child);
await done();
