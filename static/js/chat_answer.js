// One answer on the page: its versions, the bar of its times, its figures, and what went wrong.
import { MISSING_TEXT, costOf, figure, isKnown, split, usdShort } from './chat_figures.js';
import { ReplyView, showReply } from './chat_render.js';
import { duration, ms, seconds } from './fmt.js';

const ADVICE = {
  overloaded: 'It takes no more requests at the moment. Try again shortly, or give it more replicas.',
  unavailable: 'Nothing is lost: your question stays here. Try again when it is ready.',
  context_overflow: 'Start a new chat, shorten the system prompt, or ask for fewer output tokens.',
  gateway_down: 'Your question stays here. Is the cluster up? “python manage.py doctor” asks every part.',
  unauthorised: 'The gateway does not know the console’s key yet; it is told at the next reconciliation.',
  not_found: 'It may have been deleted or renamed. Choose another deployment above.',
  engine_error: 'What had come is kept. Try again; if it fails again, look at the deployment’s logs.',
  broken_stream: 'What had come is kept. The engine may have been restarted; try again.',
  connection_lost: 'What had come is kept, and the request was ended in the engine.',
  console_error: 'The console’s log has the reason.',
};

const RETRIABLE = new Set([
  'overloaded', 'unavailable', 'gateway_down', 'engine_error', 'broken_stream', 'connection_lost', 'unauthorised',
]);
const ENGINE_WAITS_MS = [1500, 3000, 6000];
const SHARE_WAITS_MS = [120_000, 60_000, 120_000]; // costs are shared out a minute or two later

/** Wraps an <article class="a"> made from the page's template or sent by the server. */
export class Answer {
  constructor(element, { deploymentUrl, requestUrl }) {
    this.element = element;
    this.deploymentUrl = deploymentUrl;
    this.requestUrl = requestUrl;
    this.versions = [];
    this.shown = -1;
    this.body = element.querySelector('[data-body]');
  }

  get current() {
    return this.versions[this.shown] ?? { text: '', state: 'error', stats: {} };
  }

  /** Takes over what the server rendered. */
  adopt(versions) {
    this.versions = versions;
    this.show(versions.length - 1);
  }

  show(index) {
    this.shown = index;
    const version = this.current;
    this.view = showReply(this.body, version.text);
    this.#figures(version);
  }

  begin() {
    this.versions.push({ text: '', state: 'streaming', stats: {} });
    this.shown = this.versions.length - 1;
    this.view = new ReplyView(this.body);
    this.body.classList.add('streaming');
    this.#figures(this.current);
  }

  push(piece, afterPaint) {
    this.current.text += piece;
    this.view.push(piece, afterPaint);
  }

  finish({ state, stats, error }) {
    Object.assign(this.current, { state, stats: stats ?? {}, error });
    this.body.classList.remove('streaming');
    this.view.end();
    this.#figures(this.current);
    this.#askEngine(this.current);
  }

  /** The engine's own figures come with the usage record, a second or two after the reply; its share of the
   *  replica's cost some minutes later. */
  async #askEngine(version) {
    if (!version.stats.request_id) return;
    await this.#askUntil(version, ENGINE_WAITS_MS, (engine, stats) => {
      stats.engine_ttft_s = engine.engine_ttft_s;
      stats.parts = engine.parts;
      stats.prompt_tokens ??= engine.prompt_tokens;
      if (stats.tokens_counted && engine.completion_tokens !== null) recount(stats, engine.completion_tokens);
      return true;
    });
    await this.#askUntil(version, SHARE_WAITS_MS, (engine, stats) => {
      stats.allocated_usd = engine.allocated_usd;
      return engine.allocated_usd !== null;
    });
  }

  /** Ask for the request's figures after each wait until `take` has what it wants of them. */
  async #askUntil(version, waits, take) {
    for (const wait of waits) {
      await new Promise((resolve) => { setTimeout(resolve, wait); });
      if (!this.element.isConnected) return;
      const answer = await fetch(this.requestUrl.replace('ID', encodeURIComponent(version.stats.request_id)));
      const engine = answer.ok ? await answer.json() : { known: false };
      if (!engine.known || !take(engine, version.stats)) continue;
      if (version === this.current) this.#figures(version);
      return;
    }
  }

  #find(name) {
    return this.element.querySelector(`[data-${name}]`);
  }

  #figures(version) {
    const { state, stats } = version;
    const streaming = state === 'streaming';
    this.#find('busy').hidden = !streaming;
    this.#find('stopped').hidden = state !== 'stopped';
    this.#find('cut').hidden = stats.finish_reason !== 'length';
    this.#find('acts').hidden = streaming;
    this.#error(version);
    // A reply that was refused has no times worth reading.
    const isEmpty = !streaming && !version.text;
    this.body.hidden = isEmpty;
    this.#bar(isEmpty ? {} : stats);
    this.#meta(isEmpty ? {} : stats);
    split(this.#find('parts'), isEmpty ? [] : stats.parts ?? []);
    const several = this.versions.length > 1 && !streaming;
    this.#find('versions').hidden = !several;
    this.#find('version').textContent = `${this.shown + 1}/${this.versions.length}`;
    this.#find('older').disabled = this.shown === 0;
    this.#find('newer').disabled = this.shown === this.versions.length - 1;
  }

  #bar(stats) {
    const total = stats.e2e_s;
    const bar = this.#find('race');
    const known = typeof total === 'number' && total > 0;
    bar.classList.toggle('unknown', !known);
    this.#find('total').textContent = known ? seconds(total) : '';
    const first = known && stats.ttft_s !== null ? Math.min(stats.ttft_s, total) : 0;
    const share = known ? (100 * first) / total : 0;
    this.#find('first').setAttribute('width', share.toFixed(2));
    this.#find('decode').setAttribute('x', share.toFixed(2));
    this.#find('decode').setAttribute('width', known && stats.ttft_s !== null ? (100 - share).toFixed(2) : '0');
    this.#find('bar').setAttribute('aria-label', known
      ? `First token after ${ms(stats.ttft_s)}, whole reply ${seconds(total)}`
      : 'No times yet');
  }

  #meta(stats) {
    const meta = this.#find('meta');
    if (typeof stats.e2e_s !== 'number') {
      meta.replaceChildren();
      return;
    }
    const engine = typeof stats.engine_ttft_s === 'number' ? `; the engine says ${ms(stats.engine_ttft_s)}` : '';
    meta.replaceChildren(
      figure('TTFT', ms(stats.ttft_s), `Time to first token, from the console’s request to its first piece${engine}`),
      figure('TPOT', ms(stats.tpot_s), 'Time per output token: (last − first) ÷ (tokens − 1)'),
      figure('', `${stats.completion_tokens}`, tokensTitle(stats), 'tok'),
      figure('', rateText(stats), 'Output tokens ÷ the whole time, the wait for the first one included', 'tok/s'),
      figure('', usdShort(costOf(stats)), costTitle(stats), isKnown(stats.allocated_usd) ? 'its share' : 'at most, estimate'),
    );
  }

  #error(version) {
    const box = this.#find('error');
    const error = version.error ?? version.stats.error;
    box.hidden = !error;
    if (!error) return;
    this.#find('error-text').textContent = error.message || 'The reply failed.';
    const wait = error.retry_after_s ? ` It asks to wait ${duration(error.retry_after_s)}.` : '';
    this.#find('error-advice').textContent = `${ADVICE[error.code] ?? ''}${wait}`;
    this.#find('retry').hidden = !RETRIABLE.has(error.code);
    const link = this.#find('error-link');
    const name = version.stats.deployment;
    link.hidden = !name || ['gateway_down', 'connection_lost', 'context_overflow'].includes(error.code);
    if (name) link.href = this.deploymentUrl.replace('NAME', encodeURIComponent(name));
  }
}

/** A piece may hold several tokens: with the true count, the rates change too (console/chat_stats.py). */
function recount(stats, tokens) {
  if (typeof stats.tpot_s === 'number' && tokens > 1) {
    stats.tpot_s *= (stats.completion_tokens - 1) / (tokens - 1);
  }
  if (stats.e2e_s) stats.tokens_per_s = tokens / stats.e2e_s;
  stats.completion_tokens = tokens;
  stats.tokens_counted = false;
}

function rateText(stats) {
  if (typeof stats.tokens_per_s !== 'number') return MISSING_TEXT;
  return stats.tokens_per_s >= 100 ? stats.tokens_per_s.toFixed(0) : stats.tokens_per_s.toFixed(1);
}

function tokensTitle(stats) {
  const prompt = typeof stats.prompt_tokens === 'number' ? `, after ${stats.prompt_tokens} of prompt` : '';
  const how = stats.tokens_counted ? 'counted from the pieces that came' : 'as the engine counted';
  return `${stats.completion_tokens} output tokens, ${how}${prompt}`;
}

function costTitle(stats) {
  if (isKnown(stats.allocated_usd)) {
    return `$${stats.allocated_usd}: its share of what the replica cost in the seconds it was alive, `
      + 'by the work it got beside other requests. A late request beside it can still change it.';
  }
  if (stats.cost_usd === null || stats.cost_usd === undefined) return 'No price is known for this deployment';
  const accelerators = `${stats.accelerators} accelerator${stats.accelerators === 1 ? '' : 's'}`;
  return `${seconds(stats.e2e_s)} × ${accelerators} × $${Number(stats.price_per_accelerator_hour_usd)}/h: `
    + 'an estimate, the price of one replica for this time. A replica answers several requests at once, '
    + 'so the share of one reply is at most this; it is known a minute or two after the reply.';
}
