// The parameter panel: reads, remembers and resets sampling settings, and shows the request as code.
const STORE = 'raydeck.chat.parameters';
const USUAL_MAX_TOKENS = 512;

export class Parameters {
  /** `given` are a kept conversation's settings, or null for a new chat. */
  constructor(panel, given) {
    this.panel = panel;
    this.fields = [...panel.querySelectorAll('[data-param]')];
    const start = given ?? this.#remembered();
    for (const field of this.fields) {
      const value = start?.[field.dataset.param];
      if (value !== undefined && value !== null) field.value = value;
      this.#show(field);
    }
    panel.addEventListener('input', (event) => this.#onInput(event));
    panel.querySelector('[data-reset]').addEventListener('click', () => this.reset());
    this.#mark();
  }

  /** Settings as the server takes them; an empty field is null, left to the engine. */
  values() {
    const values = {};
    for (const field of this.fields) {
      const name = field.dataset.param;
      if (name === 'system') values.system = field.value;
      else values[name] = field.value.trim() === '' ? null : Number(field.value);
    }
    return values;
  }

  /** The first field with a value that cannot be sent, or null. */
  invalid() {
    return this.fields.find((field) => !field.checkValidity()) ?? null;
  }

  /** Fits the output limit to what a deployment's context leaves beside the prompt. What somebody chose comes
   *  back when there is room for it again. */
  fitContext(contextTokens, promptTokens) {
    const field = this.#field('max_tokens');
    const most = Math.max(1, contextTokens - promptTokens);
    const standard = String(Math.min(USUAL_MAX_TOKENS, Math.floor(contextTokens / 2), most));
    if (field.value === field.dataset.default) field.value = standard;
    else if (field.value !== '') this.#keepWithin(field, most);
    field.dataset.default = standard;
    field.max = most;
    this.panel.querySelector('[data-slides=max_tokens]').max = Math.min(4096, most);
    this.panel.querySelector('[data-most-tokens]').textContent = `At most ${most.toLocaleString('en-US')}: what `
      + `the context of ${contextTokens.toLocaleString('en-US')} leaves beside the prompt.`;
    this.#show(field);
    this.#mark();
  }

  #keepWithin(field, most) {
    const wanted = Number(field.dataset.wanted ?? field.value);
    if (wanted > most) field.dataset.wanted = wanted;
    else delete field.dataset.wanted;
    field.value = Math.min(wanted, most);
  }

  reset() {
    for (const field of this.fields) {
      field.value = field.dataset.default;
      this.#show(field);
    }
    this.#remember();
    this.#mark();
  }

  #onInput(event) {
    const slider = event.target.closest('[data-slides]');
    if (slider) this.#field(slider.dataset.slides).value = slider.value;
    const field = slider ? this.#field(slider.dataset.slides) : event.target.closest('[data-param]');
    if (!field) return;
    delete field.dataset.wanted;
    this.#show(field);
    this.#remember();
    this.#mark();
  }

  #field(name) {
    return this.fields.find((field) => field.dataset.param === name);
  }

  #show(field) {
    const slider = this.panel.querySelector(`[data-slides="${field.dataset.param}"]`);
    if (slider) {
      slider.value = field.value === '' ? slider.max : field.value;
      const share = (slider.value - slider.min) / (slider.max - slider.min);
      slider.style.setProperty('--v', `${(100 * share).toFixed(1)}%`);
    }
    if (field.dataset.param === 'system') return;
    field.setAttribute('aria-invalid', String(!field.checkValidity()));
  }

  #mark() {
    let changed = false;
    for (const field of this.fields) {
      const differs = field.value.trim() !== field.dataset.default;
      changed ||= differs;
      const dot = this.panel.querySelector(`[data-changed="${field.dataset.param}"]`);
      if (dot) dot.hidden = !differs;
    }
    this.panel.querySelector('[data-reset]').hidden = !changed;
  }

  #remembered() {
    try {
      return JSON.parse(sessionStorage.getItem(STORE) ?? 'null');
    } catch (error) {
      console.info('Parameters are not remembered:', error.name);
      return null;
    }
  }

  #remember() {
    try {
      sessionStorage.setItem(STORE, JSON.stringify(this.values()));
    } catch (error) {
      console.info('Parameters are not remembered:', error.name);
    }
  }
}

/** The request as a curl command and as Python, with the caller's key taken from the environment. */
export function asCode({ baseUrl, deployment, system, messages, settings }) {
  const body = { model: deployment, messages };
  if (system.trim()) body.messages = [{ role: 'system', content: system }, ...messages];
  for (const name of ['temperature', 'top_p', 'max_tokens', 'seed']) {
    if (settings[name] !== null) body[name] = settings[name];
  }
  const json = JSON.stringify({ ...body, stream: true }, null, 2).replaceAll("'", "'\\''");
  const curl = `curl ${baseUrl}/chat/completions \\\n  -H "Authorization: Bearer $RAYDECK_API_KEY" \\\n`
    + `  -H "Content-Type: application/json" \\\n  -d '${json}'`;
  const given = Object.entries(body)
    .filter(([name]) => name !== 'messages')
    .map(([name, value]) => `    ${name}=${JSON.stringify(value)},\n`)
    .join('');
  const listed = JSON.stringify(body.messages, null, 4).replaceAll('\n', '\n    ');
  const python = `import os\n\nfrom openai import OpenAI\n\nclient = OpenAI(base_url="${baseUrl}", `
    + `api_key=os.environ["RAYDECK_API_KEY"])\nstream = client.chat.completions.create(\n${given}`
    + `    messages=${listed},\n    stream=True,\n)\nfor chunk in stream:\n    if chunk.choices:\n`
    + `        print(chunk.choices[0].delta.content or "", end="", flush=True)\n`;
  return { curl, python };
}
