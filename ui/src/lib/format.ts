/** Numbers and times as people read them, in the language of the page. */

const cache = new Map<string, Intl.NumberFormat>();
function nf(lang: string, options: Intl.NumberFormatOptions): Intl.NumberFormat {
  const key = lang + JSON.stringify(options);
  let made = cache.get(key);
  if (!made) cache.set(key, (made = new Intl.NumberFormat(lang, options)));
  return made;
}

export const none = '–';
type Num = number | null | undefined;
const missing = (v: Num): v is null | undefined => v === null || v === undefined || !Number.isFinite(v);

/** `order.base` as `order`; names of hosts stay. */
export const short = (name: string) => (/^[^.]+\.[^.]+$/.test(name) ? (name.split('.')[0] as string) : name);

/** Three significant digits, thousands with k, M. */
export function compact(v: Num, lang = 'en'): string {
  if (missing(v)) return none;
  const abs = Math.abs(v);
  if (abs >= 1e9) return `${nf(lang, { maximumSignificantDigits: 3 }).format(v / 1e9)}G`;
  if (abs >= 1e6) return `${nf(lang, { maximumSignificantDigits: 3 }).format(v / 1e6)}M`;
  if (abs >= 1e4) return `${nf(lang, { maximumSignificantDigits: 3 }).format(v / 1e3)}k`;
  if (abs >= 100) return nf(lang, { maximumFractionDigits: 0 }).format(v);
  if (abs >= 10) return nf(lang, { maximumFractionDigits: 1 }).format(v);
  return nf(lang, { maximumFractionDigits: 2 }).format(v);
}

export const rate = (v: Num, lang = 'en') => (missing(v) ? none : `${compact(v, lang)}/s`);

export function share(v: Num, lang = 'en'): string {
  if (missing(v)) return none;
  const percent = v * 100;
  if (percent === 0) return '0%';
  if (percent < 0.01) return '<0.01%';
  return `${nf(lang, { maximumFractionDigits: percent < 1 ? 2 : percent < 10 ? 1 : 0 }).format(percent)}%`;
}

/** Milliseconds: 0.4 ms, 12 ms, 1.2 s, 3 min. */
export function ms(v: Num, lang = 'en'): string {
  if (missing(v)) return none;
  if (v >= 120_000) return `${nf(lang, { maximumFractionDigits: 1 }).format(v / 60_000)} min`;
  if (v >= 1000) return `${nf(lang, { maximumFractionDigits: 2 }).format(v / 1000)} s`;
  if (v >= 10) return `${nf(lang, { maximumFractionDigits: 0 }).format(v)} ms`;
  if (v >= 1) return `${nf(lang, { maximumFractionDigits: 1 }).format(v)} ms`;
  if (v === 0) return '0 ms';
  if (v < 0.001) return `${nf(lang, { maximumFractionDigits: 2 }).format(v * 1000)} µs`;
  return `${nf(lang, { maximumFractionDigits: 2 }).format(v)} ms`;
}

export const us = (v: Num, lang = 'en') => (missing(v) ? none : v < 1000 ? `${Math.round(v)} µs` : ms(v / 1000, lang));

export function bytes(v: Num, lang = 'en'): string {
  if (missing(v)) return none;
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let n = v;
  let i = 0;
  while (n >= 1024 && i < units.length - 1) {
    n /= 1024;
    i += 1;
  }
  return `${nf(lang, { maximumFractionDigits: n < 10 && i > 0 ? 1 : 0 }).format(n)} ${units[i]}`;
}

const clock = new Map<string, Intl.DateTimeFormat>();
function df(lang: string, options: Intl.DateTimeFormatOptions): Intl.DateTimeFormat {
  const key = lang + JSON.stringify(options);
  let made = clock.get(key);
  if (!made) clock.set(key, (made = new Intl.DateTimeFormat(lang === 'en' ? 'en-GB' : lang, options)));
  return made;
}

export const valid = (at: Date) => !Number.isNaN(at.getTime());

/** 14:03:12.345 */
export function timeOfDay(at: Date, lang = 'en', withMs = false): string {
  if (!valid(at)) return none;
  const text = df(lang, { hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false }).format(at);
  return withMs ? `${text}.${String(at.getMilliseconds()).padStart(3, '0')}` : text;
}

export function dateTime(at: Date, lang = 'en'): string {
  return valid(at) ? df(lang, { year: 'numeric', month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false }).format(at) : none;
}

const steps: [number, Intl.RelativeTimeFormatUnit][] = [
  [60, 'second'],
  [3600, 'minute'],
  [86_400, 'hour'],
  [86_400 * 30, 'day'],
  [86_400 * 365, 'month'],
  [Infinity, 'year'],
];
const sizes: Record<string, number> = { second: 1, minute: 60, hour: 3600, day: 86_400, month: 86_400 * 30, year: 86_400 * 365 };

/** "3 minutes ago", "in 2 days". */
export function relative(at: Date, now: Date, lang = 'en'): string {
  if (!valid(at)) return none;
  const seconds = (at.getTime() - now.getTime()) / 1000;
  const unit = steps.find(([limit]) => Math.abs(seconds) < limit)?.[1] ?? 'year';
  return new Intl.RelativeTimeFormat(lang, { numeric: 'auto', style: 'short' }).format(Math.trunc(seconds / (sizes[unit] ?? 1)), unit);
}
