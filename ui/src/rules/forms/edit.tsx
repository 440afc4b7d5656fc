/** What forms work with: reading and writing fields of the YAML, and the inputs for them. */
import { useId, useMemo, useState } from 'react';
import type { ReactNode } from 'react';
import { useT } from '../../i18n';
import { Icon } from '../../ui/icons';
import { Field } from '../../ui/parts';
import * as yamldoc from '../yamldoc';
import type { Json, Path } from '../yamldoc';

export interface Edit {
  get: (path: Path) => Json | undefined;
  list: (path: Path) => Json[];
  /** The keys of a map. */
  keys: (path: Path) => string[];
  text: (path: Path) => string;
  set: (path: Path, value: Json | undefined) => void;
  /** Several writes as one. */
  setMany: (writes: { path: Path; value: Json }[]) => void;
  add: (list: Path, value: Json) => void;
  remove: (path: Path) => void;
  move: (list: Path, from: number, to: number) => void;
  rename: (map: Path, from: string, to: string) => void;
}

export function useEdit(text: string, setText: (text: string) => void): Edit {
  return useMemo(() => {
    const doc = yamldoc.single(text);
    const root: Json = doc ? yamldoc.toJson(doc) : {};
    const get = (path: Path): Json | undefined => {
      let at: Json | undefined = root;
      for (const step of path) {
        if (Array.isArray(at) && typeof step === 'number') at = at[step];
        else if (at !== null && typeof at === 'object' && !Array.isArray(at) && Object.hasOwn(at, String(step))) at = at[String(step)];
        else return undefined;
      }
      return at;
    };
    const list = (path: Path) => {
      const v = get(path);
      return Array.isArray(v) ? v : [];
    };
    return {
      get,
      list,
      keys: (path) => {
        const v = get(path);
        return v !== null && typeof v === 'object' && !Array.isArray(v) ? Object.keys(v) : [];
      },
      text: (path) => {
        const v = get(path);
        return v === undefined || v === null ? '' : typeof v === 'object' ? JSON.stringify(v) : String(v);
      },
      set: (path, value) => setText(yamldoc.setIn(text, path, value)),
      setMany: (writes) => setText(writes.reduce((at, w) => yamldoc.setIn(at, w.path, w.value), text)),
      add: (at, value) => setText(yamldoc.setIn(text, [...at, list(at).length], value)),
      remove: (path) => setText(yamldoc.setIn(text, path, undefined)),
      move: (at, from, to) => setText(yamldoc.move(text, at, from, to)),
      rename: (map, from, to) => setText(yamldoc.rename(text, map, from, to)),
    };
  }, [text, setText]);
}

interface FieldProps {
  edit: Edit;
  path: Path;
  label: string;
  hint?: string;
  placeholder?: string;
}

export function TextField({ edit, path, label, hint, placeholder, options, disabled }: FieldProps & { options?: string[]; disabled?: boolean }) {
  const id = useId();
  const hintId = useId();
  return (
    <Field label={label} hint={hint} hintId={hintId}>
      <input className="input" aria-describedby={hint && hintId} value={edit.text(path)} disabled={disabled} placeholder={placeholder} list={options ? id : undefined} spellCheck={false} onChange={(e) => edit.set(path, e.target.value === '' ? undefined : e.target.value)} />
      {options && <datalist id={id}>{options.map((o) => <option key={o} value={o} />)}</datalist>}
    </Field>
  );
}

export function NumberField({ edit, path, label, hint, placeholder, min = 0, max, step }: FieldProps & { min?: number; max?: number; step?: number }) {
  const hintId = useId();
  return (
    <Field label={label} hint={hint} hintId={hintId}>
      <input
        className="input" aria-describedby={hint && hintId} type="number" inputMode="numeric" min={min} max={max} step={step} placeholder={placeholder} value={edit.text(path)}
        onChange={(e) => edit.set(path, e.target.value === '' || !Number.isFinite(Number(e.target.value)) ? undefined : Number(e.target.value))}
      />
    </Field>
  );
}

export function ChoiceField({ edit, path, label, hint, options, none }: FieldProps & { options: (string | { id: string; label: string })[]; none?: string }) {
  const value = edit.text(path);
  const list = options.map((o) => (typeof o === 'string' ? { id: o, label: o } : o));
  const hintId = useId();
  if (value !== '' && !list.some((o) => o.id === value)) list.push({ id: value, label: value });
  return (
    <Field label={label} hint={hint} hintId={hintId}>
      <select className="input" aria-describedby={hint && hintId} value={value} onChange={(e) => edit.set(path, e.target.value === '' ? undefined : e.target.value)}>
        {none !== undefined && <option value="">{none}</option>}
        {list.map((o) => <option key={o.id} value={o.id}>{o.label}</option>)}
      </select>
    </Field>
  );
}

/** A list of words: each a chip; Enter or a comma adds one. */
export function ChipsField({ edit, path, label, hint, placeholder, options }: FieldProps & { options?: string[] }) {
  const { t } = useT();
  const id = useId();
  const [draft, setDraft] = useState('');
  const list = edit.list(path).map((x) => (typeof x === 'string' ? x : JSON.stringify(x)));
  const commit = (text: string) => {
    const words = text.split(/[\s,]+/).filter((w) => w && !list.includes(w));
    if (words.length > 0) edit.set(path, [...edit.list(path), ...words]);
    setDraft('');
  };
  return (
    <div className="field">
      <label className="lab" htmlFor={`${id}i`}>{label}</label>
      <div className="chips">
        {list.map((x, i) => (
          <span key={`${x}${i}`} className="chip">
            <span className="ellipsis">{x}</span>
            <button type="button" aria-label={t('form.removeWord', { word: x })} onClick={() => edit.remove([...path, i])}><Icon name="close" size={11} /></button>
          </span>
        ))}
        <input
          id={`${id}i`} aria-describedby={hint && `${id}h`} value={draft} list={options ? id : undefined} placeholder={list.length === 0 ? placeholder : ''} spellCheck={false}
          onChange={(e) => (options?.includes(e.target.value) && e.target.value !== draft && !e.nativeEvent.isTrusted ? commit(e.target.value) : setDraft(e.target.value))}
          onKeyDown={(e) => {
            if (e.key === 'Enter' || e.key === ',') {
              e.preventDefault();
              commit(draft);
            } else if (e.key === 'Backspace' && draft === '' && list.length > 0) edit.remove([...path, list.length - 1]);
          }}
          onBlur={() => commit(draft)}
        />
      </div>
      {options && <datalist id={id}>{options.map((o) => <option key={o} value={o} />)}</datalist>}
      {hint && <span className="hint" id={`${id}h`}>{hint}</span>}
    </div>
  );
}

/** A map of words to words. */
export function PairsField({ edit, path, label, keyHint, valueHint }: FieldProps & { keyHint?: string; valueHint?: string }) {
  const { t } = useT();
  const keys = edit.keys(path);
  const fresh = () => {
    let n = 1;
    while (keys.includes(`key${n}`)) n += 1;
    return `key${n}`;
  };
  return (
    <fieldset className="field">
      <legend className="lab">{label}</legend>
      {keys.map((k, i) => (
        <div key={i} className="row">
          <input className="input" value={k} aria-label={t('form.key')} placeholder={keyHint} spellCheck={false} onChange={(e) => e.target.value !== '' && edit.rename(path, k, e.target.value)} />
          <span className="faint">{'='}</span>
          <input className="input" value={edit.text([...path, k])} aria-label={t('form.valueOf', { key: k })} placeholder={valueHint} spellCheck={false} onChange={(e) => edit.set([...path, k], e.target.value)} />
          <RemoveButton label={t('form.removeWord', { word: k })} onClick={() => edit.remove([...path, k])} />
        </div>
      ))}
      <AddButton label={t('form.addPair')} onClick={() => edit.set([...path, fresh()], '')} />
    </fieldset>
  );
}

export function AddButton({ label, onClick }: { label: string; onClick: () => void }) {
  return <button type="button" className="btn s ghost add" onClick={onClick}><Icon name="plus" size={14} />{label}</button>;
}

export function RemoveButton({ label, onClick }: { label: string; onClick: () => void }) {
  return <button type="button" className="btn s ghost icon" onClick={onClick} aria-label={label} title={label}><Icon name="trash" size={14} /></button>;
}

/** An entry of a list with its place, and buttons to move and remove it. */
export function Entry({ edit, list, index, title, children, removeLabel }: { edit: Edit; list: Path; index: number; title: ReactNode; children: ReactNode; removeLabel: string }) {
  const { t } = useT();
  const count = edit.list(list).length;
  return (
    <div className="entry">
      <div className="entryhead">
        <span className="entryno">{index + 1}</span>
        <div className="grow break">{title}</div>
        {count > 1 && (
          <>
            <button type="button" className="btn s ghost icon" disabled={index === 0} onClick={() => edit.move(list, index, index - 1)} aria-label={t('form.up')} title={t('form.up')}><Icon name="up" size={14} /></button>
            <button type="button" className="btn s ghost icon" disabled={index === count - 1} onClick={() => edit.move(list, index, index + 1)} aria-label={t('form.down')} title={t('form.down')}><Icon name="down" size={14} /></button>
          </>
        )}
        <RemoveButton label={removeLabel} onClick={() => edit.remove([...list, index])} />
      </div>
      <div className="entrybody">{children}</div>
    </div>
  );
}

/** Fields this form does not show; they stay as they are. */
export function Others({ edit, path, known }: { edit: Edit; path: Path; known: string[] }) {
  const { t } = useT();
  const rest = edit.keys(path).filter((k) => !known.includes(k));
  if (rest.length === 0) return null;
  return <p className="small muted others"><Icon name="info" size={14} /><span className="break">{t('form.others', { fields: rest.join(', ') })}</span></p>;
}

export function Section({ title, hint, children, open, count }: { title: string; hint?: string; children: ReactNode; open?: boolean; count?: number }) {
  return (
    <details className="section" open={open}>
      <summary><span className="grow">{title}{count !== undefined && count > 0 && <span className="chip acc">{count}</span>}</span><Icon name="down" size={14} /></summary>
      {hint && <p className="small muted">{hint}</p>}
      <div className="sectionbody">{children}</div>
    </details>
  );
}

export function Meta({ edit, isNew }: { edit: Edit; isNew: boolean }) {
  const { t } = useT();
  return (
    <div className="formgrid">
      <TextField edit={edit} path={['metadata', 'name']} label={t('col.name')} disabled={!isNew} />
      <TextField edit={edit} path={['metadata', 'namespace']} label={t('col.namespace')} disabled={!isNew} />
    </div>
  );
}
