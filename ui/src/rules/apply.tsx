/** Look at the difference, apply, and watch it become active on the proxies. */
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { get, post } from '../api/client';
import type { Active } from '../api/types';
import { useT } from '../i18n';
import { ms } from '../lib/format';
import { Dialog } from '../ui/dialog';
import { Diff } from '../ui/diff';
import { Icon } from '../ui/icons';
import { Findings } from '../ui/objects';
import { Loaded, Note, Refused } from '../ui/parts';
import { identity, parse } from './yamldoc';
import type { Identity } from './yamldoc';

/** The objects a text names. */
export function objectsOf(yaml: string): Identity[] {
  return parse(yaml)
    .docs.map((d) => identity(String(d)))
    .filter((i) => i.kind !== '' && i.name !== '');
}

function Progress({ of }: { of: Identity }) {
  const { t, lang } = useT();
  const namespace = of.namespace || 'default';
  // Not the cache of the page: what counts is the state after the write.
  const query = useQuery({
    queryKey: ['progress', of.kind, namespace, of.name],
    queryFn: ({ signal }) => get('/api/malla/v1/objects/{kind}/{namespace}/{name}', { path: { kind: of.kind, namespace, name: of.name }, signal }),
    refetchInterval: (s) => (s.state.data?.active && s.state.data.active.acked >= s.state.data.active.total ? false : 400),
    staleTime: 0,
    gcTime: 0,
  });
  const active: Active | null | undefined = query.data?.active;
  const done = active ? active.acked >= active.total : false;
  return (
    <div className="col" role="status" aria-live="polite">
      <p className="row between wrap">
        <span className="break"><b>{of.kind}</b> {namespace}{'/'}{of.name}</span>
        <span className={done ? 't-ok' : 'muted'}>
          {active === undefined ? t('apply.waiting') : active === null ? t('active.unknown') : t('active.long', { acked: active.acked, total: active.total })}
          {done && active?.ms != null && ` · ${ms(active.ms, lang)}`}
        </span>
      </p>
      <div className="bar tall" aria-hidden="true"><span className={done ? 'ok' : undefined} style={{ width: `${active && active.total > 0 ? (100 * active.acked) / active.total : active ? 100 : 4}%` }} /></div>
    </div>
  );
}

export function ApplyDialog({ yaml, close, done }: { yaml: string; close: () => void; done: () => void }) {
  const { t } = useT();
  const client = useQueryClient();
  const [note, setNote] = useState('');
  const check = useQuery({ queryKey: ['check', yaml, 'apply'], queryFn: () => post('/api/malla/v1/objects:check', { body: { yaml } }), staleTime: 0, gcTime: 0, retry: false });
  const apply = useMutation({
    mutationFn: () => post('/api/malla/v1/objects:apply', { body: { yaml, ...(note.trim() ? { note: note.trim() } : {}) } }),
    onSuccess: () => void client.invalidateQueries(),
  });
  const finish = () => {
    close();
    if (apply.isSuccess) done();
  };
  if (apply.isSuccess) {
    return (
      <Dialog narrow title={t('apply.applied')} onClose={finish} footer={<button type="button" className="btn primary" onClick={finish}>{t('action.done')}</button>}>
        {objectsOf(yaml).map((o) => <Progress key={`${o.kind}/${o.namespace}/${o.name}`} of={o} />)}
      </Dialog>
    );
  }
  return (
    <Dialog
      title={t('apply.title')}
      onClose={close}
      footer={
        <>
          <input className="input grow note-input" value={note} maxLength={500} onChange={(e) => setNote(e.target.value)} placeholder={t('apply.note')} aria-label={t('apply.note')} />
          <button type="button" className="btn" onClick={close}>{t('action.cancel')}</button>
          <button type="button" className="btn primary" disabled={!check.data?.ok || apply.isPending} onClick={() => apply.mutate()}>
            <Icon name="check" size={16} />
            {t('apply.apply')}
          </button>
        </>
      }
    >
      {apply.error && <Refused error={apply.error} />}
      <Loaded query={check}>
        {(result) => (
          <>
            {result.errors.map((e, i) => <Note key={i} tone="err">{e.path && <code>{e.path}{': '}</code>}{e.message}</Note>)}
            {result.findings.length > 0 && <Findings list={result.findings} />}
            <Diff before={result.diff.before} after={result.diff.after} />
          </>
        )}
      </Loaded>
    </Dialog>
  );
}
