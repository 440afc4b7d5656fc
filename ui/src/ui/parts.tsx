/** Small building blocks: panels, tabs, chips, states. */
import { useId, useState } from 'react';
import type { KeyboardEvent, ReactNode } from 'react';
import { ApiError } from '../api/client';
import { useT } from '../i18n';
import { Icon } from './icons';
import type { IconName } from './icons';

export function Panel({ title, actions, children, flush, className = '' }: { title?: ReactNode; actions?: ReactNode; children: ReactNode; flush?: boolean; className?: string }) {
  const id = useId();
  return (
    <section className={`panel ${className}`} aria-labelledby={title ? id : undefined}>
      {title && (
        <header>
          <h2 id={id}>{title}</h2>
          {actions && <div className="row wrap">{actions}</div>}
        </header>
      )}
      <div className={`body${flush ? ' flush' : ''}`}>{children}</div>
    </section>
  );
}

export function Head({ title, sub, children }: { title: ReactNode; sub?: ReactNode; children?: ReactNode }) {
  return (
    <div className="head">
      <div className="titles">
        <h1 className="break">{title}</h1>
        {sub && <p className="sub">{sub}</p>}
      </div>
      {children && <div className="actions">{children}</div>}
    </div>
  );
}

/** Moves through a group of choices with the arrow keys. */
function arrows(event: KeyboardEvent<HTMLElement>, selector: string) {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!step) return;
  const all = [...event.currentTarget.querySelectorAll<HTMLElement>(selector)];
  const next = all[(all.indexOf(document.activeElement as HTMLElement) + step + all.length) % all.length];
  event.preventDefault();
  next?.focus();
  next?.click();
}

export function Tabs<K extends string>({ tabs, value, onChange, label }: { tabs: { id: K; label: ReactNode; count?: number | undefined }[]; value: K; onChange: (id: K) => void; label: string }) {
  return (
    // eslint-disable-next-line jsx-a11y/interactive-supports-focus -- the tabs inside take the focus
    <div className="tabs" role="tablist" aria-label={label} onKeyDown={(e) => arrows(e, '[role=tab]')}>
      {tabs.map((tab) => (
        <button key={tab.id} type="button" role="tab" aria-selected={tab.id === value} tabIndex={tab.id === value ? 0 : -1} onClick={() => onChange(tab.id)}>
          {tab.label}
          {tab.count !== undefined && <span className="count">{tab.count}</span>}
        </button>
      ))}
    </div>
  );
}

export function Seg<K extends string>({ options, value, onChange, label }: { options: { id: K; label: ReactNode }[]; value: K; onChange: (id: K) => void; label: string }) {
  return (
    // eslint-disable-next-line jsx-a11y/interactive-supports-focus -- the choices inside take the focus
    <div className="seg" role="radiogroup" aria-label={label} onKeyDown={(e) => arrows(e, '[role=radio]')}>
      {options.map((o) => (
        <button key={o.id} type="button" role="radio" aria-checked={o.id === value} tabIndex={o.id === value ? 0 : -1} onClick={() => onChange(o.id)}>
          {o.label}
        </button>
      ))}
    </div>
  );
}

export function Empty({ icon = 'info', title, children, actions }: { icon?: IconName; title: ReactNode; children?: ReactNode; actions?: ReactNode }) {
  return (
    <div className="empty">
      <Icon name={icon} size={34} />
      <strong>{title}</strong>
      {children && <p>{children}</p>}
      {actions && <div className="row">{actions}</div>}
    </div>
  );
}

export function Note({ tone = 'info', children }: { tone?: 'info' | 'warn' | 'err' | 'ok'; children: ReactNode }) {
  const icon: IconName = tone === 'info' ? 'info' : tone === 'ok' ? 'check' : 'alert';
  return (
    <div className={`note ${tone}`} role={tone === 'err' ? 'alert' : undefined}>
      <Icon name={icon} size={16} />
      <div className="grow">{children}</div>
    </div>
  );
}

/** An error of the API: what went wrong, where, and the fix where the server knows one. */
export function Failure({ error, retry }: { error: unknown; retry?: () => void }) {
  const { t } = useT();
  const api = error instanceof ApiError ? error : undefined;
  const title = api?.code === 'offline' ? t('state.offline') : api?.status === 404 ? t('state.notFound') : t('state.failed');
  return (
    <div className="empty" role="alert">
      <Icon name="alert" size={34} />
      <strong>{title}</strong>
      <p className="break">{api?.code === 'offline' ? t('state.offlineHelp') : error instanceof Error ? error.message : String(error)}</p>
      {api?.field && <p className="mono break">{api.field}</p>}
      {api?.fix && <p className="break">{api.fix}</p>}
      {retry && (
        <div className="row">
          <button type="button" className="btn" onClick={retry}>
            <Icon name="retry" size={16} />
            {t('action.retry')}
          </button>
        </div>
      )}
    </div>
  );
}

/** The same in a line, for something that was tried. */
export function Refused({ error }: { error: unknown }) {
  const fix = error instanceof ApiError ? error.fix : undefined;
  return <Note tone="err">{error instanceof Error ? error.message : String(error)}{fix && <div className="muted">{fix}</div>}</Note>;
}

export function Skeleton({ rows = 4, height = 14 }: { rows?: number; height?: number }) {
  const { t } = useT();
  return (
    <div className="col gap-m" role="status" aria-label={t('state.loading')}>
      {Array.from({ length: rows }, (_, i) => <span key={i} className="skel" style={{ height, width: `${96 - ((i * 37) % 40)}%` }} />)}
    </div>
  );
}

interface QueryLike<D> {
  data: D | undefined;
  error: unknown;
  isPending: boolean;
  refetch: () => unknown;
}
/** Shows a query's answer, or the skeleton of it, or what went wrong. Old data stays on screen during trouble. */
export function Loaded<D>({ query, skeleton, children }: { query: QueryLike<D>; skeleton?: ReactNode; children: (data: D) => ReactNode }) {
  const { t } = useT();
  if (query.data !== undefined) {
    return (
      <>
        {query.error ? <Note tone="warn">{t('state.stale')}</Note> : null}
        {children(query.data)}
      </>
    );
  }
  if (query.error) return <Failure error={query.error} retry={() => void query.refetch()} />;
  return <>{skeleton ?? <Skeleton />}</>;
}

/** A text field for filters; `/` puts the cursor into the page's first one. */
export function SearchBox({ value, onChange, label }: { value: string; onChange: (v: string) => void; label: string }) {
  return (
    <div className="searchbox">
      <Icon name="search" size={16} />
      <input className="input" type="search" data-search value={value} onChange={(e) => onChange(e.target.value)} placeholder={label} aria-label={label} spellCheck={false} autoComplete="off" />
    </div>
  );
}

export function Select({ value, onChange, label, options, all }: { value: string; onChange: (v: string) => void; label: string; options: (string | { id: string; label: string })[]; all?: string }) {
  return (
    <select className="input" value={value} onChange={(e) => onChange(e.target.value)} aria-label={label}>
      {all !== undefined && <option value="">{all}</option>}
      {options.map((o) => {
        const option = typeof o === 'string' ? { id: o, label: o } : o;
        return <option key={option.id} value={option.id}>{option.label}</option>;
      })}
    </select>
  );
}

/** The input in it is described by `hintId`. */
export function Field({ label, hint, hintId, children }: { label: ReactNode; hint?: ReactNode; hintId?: string; children: ReactNode }) {
  return (
    <div className="field">
      <label className="field">
        <span className="lab">{label}</span>
        {children}
      </label>
      {hint && <span className="hint" id={hintId}>{hint}</span>}
    </div>
  );
}

export function CopyButton({ text, label }: { text: string; label?: string }) {
  const { t } = useT();
  const [done, setDone] = useState(false);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setDone(true);
      setTimeout(() => setDone(false), 1500);
    } catch {
      // No permission: the text can still be selected.
    }
  };
  return (
    <button type="button" className="btn ghost s icon" onClick={() => void copy()} aria-label={label ?? t('action.copy')} title={done ? t('action.copied') : t('action.copy')}>
      <Icon name={done ? 'check' : 'copy'} size={15} />
    </button>
  );
}

export function Level({ level }: { level: 'Error' | 'Warning' | 'Info' }) {
  const { t } = useT();
  const tone = level === 'Error' ? 'err' : level === 'Warning' ? 'warn' : '';
  return <span className={`chip ${tone}`}>{t(`level.${level}`)}</span>;
}

/** An error share in its colour: nothing below 0.1 %, red from 5 %. */
export function shareTone(share: number | null | undefined): '' | 'ok' | 'warn' | 'err' {
  if (share === null || share === undefined) return '';
  return share >= 0.05 ? 'err' : share >= 0.001 ? 'warn' : 'ok';
}
