// Prints Grafana's dashboard from the table below: `make chart` writes helm/bitnet/dashboards/bitnet.json with it.
const engine = 'job="bitnet-engine",namespace=~"$namespace",instance=~"$instance"';
const model = `${engine},model=~"$model"`;
const gateway = 'job="bitnet-gateway",namespace=~"$namespace"';
const both = 'job=~"bitnet-(engine|gateway)",namespace=~"$namespace",instance=~"$instance"';

const rate = (name, labels = model) => `rate(${name}{${labels}}[$__rate_interval])`;
const quantiles = (name, labels = model) => [0.5, 0.95, 0.99].map((q) =>
  [`histogram_quantile(${q}, sum by (le) (${rate(`${name}_bucket`, labels)}))`, `p${q * 100}`]);
const mean = (name) => `sum by (instance) (${rate(`${name}_sum`)}) / sum by (instance) (${rate(`${name}_count`)})`;

// Rows of panels: title, unit, [expression, legend]...
const rows = {
  'What clients see': [
    ['Requests', 'reqps', [`sum by (endpoint, status) (${rate('bitnet_requests_total', gateway)})`, '{{endpoint}} {{status}}']],
    ['Errors, as a share of the requests', 'percentunit',
      [`(sum(${rate('bitnet_requests_total', `${gateway},status=~"5.."`)}) or vector(0)) / sum(${rate('bitnet_requests_total', gateway)})`, '5xx'],
      [`(sum(${rate('bitnet_requests_total', `${gateway},status="429"`)}) or vector(0)) / sum(${rate('bitnet_requests_total', gateway)})`, '429']],
    ['Time of a request', 's', ...quantiles('bitnet_request_duration_seconds', gateway)],
    ['Time to the first token', 's', ...quantiles('bitnet_time_to_first_token_seconds')],
    ['Time between two tokens', 's', ...quantiles('bitnet_inter_token_latency_seconds')],
    ['Time of a whole answer', 's', ...quantiles('bitnet_inference_duration_seconds')],
    ['Connections', 'short', [`sum by (server) (bitnet_connections_active{${gateway}})`, '{{server}}'],
      [`sum by (server) (${rate('bitnet_connections_refused_total', gateway)})`, '{{server}} refused a second']],
    ['Errors by kind', 'cps', [`sum by (component, type) (${rate('bitnet_errors_total', both)}) > 0`, '{{component}} {{type}}']],
  ],
  'Work': [
    ['Tokens', 'short', [`sum by (model) (${rate('bitnet_tokens_generated_total')})`, '{{model}} generated'],
      [`sum by (model) (${rate('bitnet_prompt_tokens_total')})`, '{{model}} of prompts']],
    ['Answers by how they ended', 'cps', [`sum by (finish_reason) (${rate('bitnet_inference_requests_total')})`, '{{finish_reason}}']],
    ['Sequences in a step, and rows', 'short', [mean('bitnet_batch_size'), '{{instance}} sequences'], [mean('bitnet_iteration_tokens'), '{{instance}} rows']],
    ['Prompt tokens found in the prefix cache', 'percentunit',
      [`sum by (model) (${rate('bitnet_prefix_cache_hits_total')}) / sum by (model) (${rate('bitnet_prefix_cache_queries_total')})`, '{{model}}']],
    ['Tokens tried ahead that were taken', 'percentunit',
      [`sum by (model) (${rate('bitnet_draft_tokens_accepted_total')}) / sum by (model) (${rate('bitnet_draft_tokens_total')})`, '{{model}}']],
  ],
  'Queue and memory': [
    ['Requests', 'short', [`sum by (instance) (bitnet_requests_running{${model}})`, '{{instance}} running'], [`sum by (instance) (bitnet_queue_depth{${model}})`, '{{instance}} waiting']],
    ['Time in the queue', 's', ...quantiles('bitnet_request_queue_seconds')],
    ['Refused', 'cps', [`sum by (job, reason) (${rate('bitnet_admission_rejections_total', both)})`, '{{job}} {{reason}}']],
    ['Ended early, or gave way', 'cps', [`sum by (cause) (${rate('bitnet_cancellations_total', engine)})`, '{{cause}}'], [`sum(${rate('bitnet_preemptions_total')})`, 'gave way']],
    ['KV cache in use', 'percentunit', [`bitnet_kv_cache_usage_ratio{${model}}`, '{{instance}} {{model}}']],
    ['Memory of models', 'bytes', [`sum by (model, component) (bitnet_model_memory_usage_bytes{${model}})`, '{{model}} {{component}}']],
  ],
  'Models and devices': [
    ['Tokens that the reference draws too', 'percentunit', [`bitnet_quantization_accuracy_ratio{${model}}`, '{{instance}} {{model}}']],
    ['Accuracy violations', 'short', [`sum by (model) (increase(bitnet_accuracy_violations_total{${model}}[$__rate_interval]))`, '{{model}}']],
    ['Loads that failed, and swaps', 'short', [`sum(increase(bitnet_model_load_failures_total{${engine}}[$__rate_interval]))`, 'failed loads'],
      [`sum by (result) (increase(bitnet_model_swaps_total{${engine}}[$__rate_interval]))`, 'swaps {{result}}']],
    ['Devices at work', 'percentunit', [`bitnet_device_utilization_ratio{${engine}}`, '{{instance}} {{device}}'], [`bitnet_cpu_utilization_ratio{${engine}}`, '{{instance}} all cores']],
    ['Memory of GPUs', 'bytes', [`bitnet_gpu_memory_usage_bytes{${engine}}`, '{{instance}} {{device}} in use'], [`bitnet_gpu_memory_size_bytes{${engine}}`, '{{instance}} {{device}} there']],
    ['Device refused (1), on trial (2)', 'short', [`bitnet_breaker_state{${model}}`, '{{instance}}']],
  ],
  'Processes': [
    ['Up', 'short', [`up{${both}}`, '{{job}} {{instance}}'], [`bitnet_engine_up{${gateway}}`, '{{instance}} sees {{target}}']],
    ['Resident memory', 'bytes', [`bitnet_process_resident_memory_bytes{${both}}`, '{{job}} {{instance}}']],
    ['CPUs', 'short', [rate('bitnet_process_cpu_seconds_total', both), '{{job}} {{instance}}']],
    ['File descriptors', 'short', [`bitnet_process_open_fds{${both}}`, '{{job}} {{instance}}']],
    ['Further attempts of gateways', 'cps', [`sum by (reason) (${rate('bitnet_engine_retries_total', gateway)})`, '{{reason}}']],
    ['Requests at each engine', 'short', [`sum by (target) (bitnet_engine_requests_active{${gateway}})`, '{{target}}']],
  ],
};

const datasource = { type: 'prometheus', uid: '${datasource}' };
const [width, height, inRow] = [6, 7, 4];

function panel([title, unit, ...lines], id, x, y) {
  return {
    id, title, type: 'timeseries', datasource, gridPos: { x, y, w: width, h: height },
    fieldConfig: { defaults: { unit, min: 0, custom: { fillOpacity: 8, lineWidth: 1 } }, overrides: [] },
    options: { legend: { displayMode: 'list', placement: 'bottom', showLegend: true }, tooltip: { mode: 'multi', sort: 'desc' } },
    targets: lines.map(([expr, legendFormat], i) => ({ refId: String.fromCharCode(65 + i), datasource, expr, legendFormat, range: true })),
  };
}

function layout() {
  const panels = [];
  let y = 0;
  for (const [title, list] of Object.entries(rows)) {
    panels.push({ id: panels.length + 1, title, type: 'row', collapsed: false, gridPos: { x: 0, y: y++, w: 24, h: 1 }, panels: [] });
    list.forEach((p, i) => panels.push(panel(p, panels.length + 1, (i % inRow) * width, y + Math.floor(i / inRow) * height)));
    y += Math.ceil(list.length / inRow) * height;
  }
  return panels;
}

const variable = (name, query) => ({
  name, type: 'query', datasource, query: { query, refId: name }, definition: query, refresh: 2, includeAll: true, allValue: '.*', multi: true,
  current: { text: 'All', value: '$__all' }, sort: 1,
});

console.log(JSON.stringify({
  uid: 'bitnet', title: 'bitnetd', tags: ['bitnet'], schemaVersion: 39, version: 1, editable: true, refresh: '30s', time: { from: 'now-1h', to: 'now' },
  templating: { list: [
    { name: 'datasource', type: 'datasource', query: 'prometheus', current: {} },
    variable('namespace', 'label_values(up{job=~"bitnet-(engine|gateway)"}, namespace)'),
    variable('instance', 'label_values(up{job=~"bitnet-(engine|gateway)",namespace=~"$namespace"}, instance)'),
    variable('model', 'label_values(bitnet_requests_running{namespace=~"$namespace"}, model)'),
  ] },
  annotations: { list: [] },
  panels: layout(),
}, null, 1));
