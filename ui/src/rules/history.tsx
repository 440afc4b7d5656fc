/** Every change of the configuration: who, when, what; and the way back. */
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { useMemo } from 'react';
import { post } from '../api/client';
import { q } from '../api/queries';
import type { Change } from '../api/types';
import { useT } from '../i18n';
import { dateTime } from '../lib/format';
import { useParam } from '../lib/url';
import { Dialog } from '../ui/dialog';
import { Diff } from '../ui/diff';
import { Icon } from '../ui/icons';
import { ChangeRow } from '../ui/objects';
import { Empty, Head, Loaded, Note, Panel, Refused, SearchBox } from '../ui/parts';
import { toast } from '../ui/toast';

export function ChangeDialog({ change, close }: { change: Change; close: () => void }) {
  const { t, lang } = useT();
  const client = useQueryClient();
  const undo = useMutation({
    mutationFn: () => post('/api/malla/v1/changes/{id}/undo', { path: { id: change.id } }),
    onSuccess: () => {
      toast('ok', t('change.undone', { name: `${change.kind} ${change.namespace}/${change.name}` }));
      void client.invalidateQueries();
      close();
    },
  });
  return (
    <Dialog
      title={t('change.title', { name: `${change.kind} ${change.namespace}/${change.name}` })}
      onClose={close}
      footer={
        <>
          <button type="button" className="btn" onClick={close}>{t('action.close')}</button>
          <button type="button" className="btn primary" disabled={undo.isPending} onClick={() => undo.mutate()}>
            <Icon name="undo" size={16} />
            {t('change.undo')}
          </button>
        </>
      }
    >
      <p className="muted">{t(`change.${change.action}`)}{' · '}{t('change.by', { who: change.who })}{' · '}{dateTime(new Date(change.time), lang)}</p>
      {change.note && <Note>{change.note}</Note>}
      {undo.error && <Refused error={undo.error} />}
      <Diff before={change.before ?? ''} after={change.after ?? ''} />
    </Dialog>
  );
}

/** A list of changes whose dialog is part of the address. */
export function Changes({ list }: { list: Change[] }) {
  const { t } = useT();
  const [id, setId] = useParam('change');
  const open = list.find((c) => c.id === id);
  if (list.length === 0) return <Empty icon="clock" title={t('change.none')}>{t('change.noneHelp')}</Empty>;
  return (
    <>
      <ul className="lines">{list.map((c) => <ChangeRow key={c.id} change={c} onOpen={(x) => setId(x.id, true)} />)}</ul>
      {open && <ChangeDialog change={open} close={() => setId('')} />}
    </>
  );
}

export default function History() {
  const { t } = useT();
  const [text, setText] = useParam('q');
  const query = useQuery(q.changes());
  const list = useMemo(() => {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    return (query.data ?? []).filter((c) => words.every((w) => `${c.kind} ${c.namespace} ${c.name} ${c.who} ${c.note ?? ''}`.toLowerCase().includes(w)));
  }, [query.data, text]);
  return (
    <>
      <Head title={t('rules.history')} sub={t('change.sub')} />
      <div className="filters"><SearchBox value={text} onChange={setText} label={t('change.search')} /></div>
      <Panel><Loaded query={query}>{() => <Changes list={list} />}</Loaded></Panel>
    </>
  );
}
