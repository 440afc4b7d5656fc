/** Any JSON as a tree that folds; a search opens what it finds. Values are text, never markup. */
import { useMemo, useState } from 'react';
import { useT } from '../i18n';

/** Where a search hits: all paths on the way to a matching key or value. */
export function hits(value: unknown, needle: string): { open: Set<string>; count: number } {
  const open = new Set<string>();
  let count = 0;
  const lower = needle.toLowerCase();
  const walk = (v: unknown, path: string, key: string, depth: number): boolean => {
    let found = key.toLowerCase().includes(lower);
    if (v !== null && typeof v === 'object') {
      if (found) count += 1;
      if (depth < 60) for (const [k, x] of Object.entries(v)) if (walk(x, `${path}/${k}`, Array.isArray(v) ? '' : k, depth + 1)) found = true;
      if (found) open.add(path);
      return found;
    }
    if (found || String(v).toLowerCase().includes(lower)) {
      count += 1;
      return true;
    }
    return false;
  };
  if (needle) walk(value, '', '', 0);
  return { open, count };
}

function Marked({ text, needle }: { text: string; needle: string }) {
  const at = needle ? text.toLowerCase().indexOf(needle.toLowerCase()) : -1;
  if (at < 0) return <>{text}</>;
  return <>{text.slice(0, at)}<mark>{text.slice(at, at + needle.length)}</mark>{text.slice(at + needle.length)}</>;
}

/** What a folded object is called: its name, or something like one. */
function title(value: object): string {
  const v = value as Record<string, unknown>;
  for (const k of ['name', 'cluster_name', 'clusterName', 'route_config_name', 'domain', 'prefix', 'path', '@type']) if (typeof v[k] === 'string') return v[k];
  return '';
}

const chunk = 200;

function Node({ name, value, path, needle, open, level }: { name: string; value: unknown; path: string; needle: string; open: Set<string>; level: number }) {
  const { t } = useT();
  const [toggled, setToggled] = useState<boolean | null>(null);
  const [limit, setLimit] = useState(chunk);
  if (value === null || typeof value !== 'object') {
    const kind = value === null ? 'null' : typeof value;
    return (
      <div className="jleaf">
        {name && <span className="jkey"><Marked text={name} needle={needle} />{': '}</span>}
        <span className={`jval ${kind}`}><Marked text={String(value)} needle={needle} /></span>
      </div>
    );
  }
  const entries = Object.entries(value);
  const shown = toggled ?? (needle ? open.has(path) : level < 2);
  const array = Array.isArray(value);
  return (
    <div className="jnode">
      <button type="button" className="jfold" aria-expanded={shown} onClick={() => setToggled(!shown)}>
        <span className={`tri${shown ? ' open' : ''}`} aria-hidden="true" />
        <span className="jkey"><Marked text={name || (array ? '[]' : '{}')} needle={needle} /></span>
        <span className="faint">{array ? `[${entries.length}]` : `{${entries.length}}`}</span>
        {!shown && <span className="muted ellipsis">{title(value)}</span>}
      </button>
      {shown && (
        <div className="jbody">
          {entries.slice(0, limit).map(([k, v]) => <Node key={k} name={k} value={v} path={`${path}/${k}`} needle={needle} open={open} level={level + 1} />)}
          {entries.length > limit && <button type="button" className="btn s ghost" onClick={() => setLimit(limit + chunk * 5)}>{t('json.more', { count: entries.length - limit })}</button>}
        </div>
      )}
    </div>
  );
}

export function JsonTree({ value, needle }: { value: unknown; needle: string }) {
  const { open } = useMemo(() => hits(value, needle), [value, needle]);
  // A new search starts from a fresh tree, so that it decides what is open.
  return <div className="jtree" key={needle}><Node name="" value={value} path="" needle={needle} open={open} level={0} /></div>;
}
