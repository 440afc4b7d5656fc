/** One object: form or YAML, what the analyzer says, where it is active, its history. */
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { Suspense, lazy, useEffect, useMemo, useState } from 'react';
import { Link, useLocation } from 'wouter';
import { del } from '../api/client';
import { q } from '../api/queries';
import type { ObjectDetail } from '../api/types';
import { useT } from '../i18n';
import { path, useParam } from '../lib/url';
import { Dialog } from '../ui/dialog';
import { Icon } from '../ui/icons';
import { ActiveOn, Findings } from '../ui/objects';
import { CopyButton, Empty, Head, Loaded, Note, Panel, Refused, Seg, Skeleton, Tabs } from '../ui/parts';
import { toast } from '../ui/toast';
import { ApplyDialog, objectsOf } from './apply';
import { useCheck } from './check';
import type { Checked } from './check';
import type { Schema } from './complete';
import type { Knowledge } from './editor';
import { DestinationRuleForm } from './forms/destinationrule';
import { useEdit } from './forms/edit';
import { GatewayForm } from './forms/gateway';
import { VirtualServiceForm } from './forms/virtualservice';
import { Changes } from './history';
import { template } from './templates';
import { identity, single } from './yamldoc';

const Editor = lazy(() => import('./editor').then((m) => ({ default: m.Editor })));

const forms = { Gateway: GatewayForm, VirtualService: VirtualServiceForm, DestinationRule: DestinationRuleForm };
const hasForm = (kind: string): kind is keyof typeof forms => Object.hasOwn(forms, kind);

function useKnowledge(): Knowledge {
  const kinds = useQuery(q.kinds()).data;
  const services = useQuery(q.services(false)).data;
  const gateways = useQuery(q.objects('Gateway')).data;
  return useMemo(
    () => ({
      schemas: Object.fromEntries((kinds ?? []).map((k) => [k.kind, k.schema as Schema])),
      apiVersions: Object.fromEntries((kinds ?? []).map((k) => [k.kind, `${k.group}/${k.version}`])),
      hosts: (services ?? []).map((s) => `${s.name}.${s.namespace}.svc.cluster.local`).sort(),
      gateways: (gateways ?? []).map((g) => `${g.namespace}/${g.name}`).sort(),
    }),
    [kinds, services, gateways],
  );
}

/** Asks before the page with an unsaved draft goes away. */
function useGuard(dirty: boolean) {
  useEffect(() => {
    if (!dirty) return;
    const stop = (event: BeforeUnloadEvent) => event.preventDefault();
    window.addEventListener('beforeunload', stop);
    return () => window.removeEventListener('beforeunload', stop);
  }, [dirty]);
}

function Verdict({ checked, nothing, dirty, jump }: { checked: Checked; nothing: boolean; dirty: boolean; jump: (line: number) => void }) {
  const { t } = useT();
  const errors = checked.marks.filter((m) => m.severity === 'error').length;
  const head = nothing ? t('check.nothing') : checked.pending ? t('check.asking') : checked.error ? t('check.unreachable') : errors > 0 ? t('check.errors', { count: errors }) : checked.marks.length > 0 ? t('check.remarks', { count: checked.marks.length }) : dirty ? t('check.fine') : t('check.fineAsIs');
  const tone = nothing ? '' : errors > 0 || checked.error ? 'err' : checked.marks.length > 0 ? 'warn' : 'ok';
  return (
    <Panel title={t('check.title')}>
      <div role="status" aria-live="polite" className="col">
        <p className="row"><span className={`dot ${checked.pending ? '' : tone}`} />{head}</p>
        <ul className="lines marks">
          {checked.marks.map((m, i) => (
            <li key={i}>
              <button type="button" className="mark" onClick={() => jump(m.line)}>
                <span className={`chip ${m.severity === 'error' ? 'err' : m.severity === 'warning' ? 'warn' : ''}`}>{t('check.line', { line: m.line })}</span>
                <span className="break">{m.message}</span>
              </button>
            </li>
          ))}
        </ul>
      </div>
    </Panel>
  );
}

function Status({ detail }: { detail: ObjectDetail }) {
  const { t } = useT();
  return (
    <Panel title={t('rule.status')}>
      <div className="col gap-m">
        <div><ActiveOn active={detail.active} long /></div>
        {detail.conditions.map((c) => (
          <div key={c.type}>
            <p className="row"><span className={`dot ${c.status === 'True' ? 'ok' : c.status === 'False' ? 'err' : 'warn'}`} /><b>{c.type}</b>{c.reason && <span className="faint small">{c.reason}</span>}</p>
            {c.message && <p className="small muted break">{c.message}</p>}
          </div>
        ))}
        {detail.findings.length > 0 && <Findings list={detail.findings} />}
      </div>
    </Panel>
  );
}

function Kubectl({ text }: { text: string }) {
  const { t } = useT();
  const command = `kubectl apply -f - <<'EOF'\n${text.replace(/\n?$/, '\n')}EOF`;
  return (
    <Panel title={t('rule.kubectl')} actions={<CopyButton text={command} />}>
      <p className="small muted">{t('rule.kubectlHelp')}</p>
    </Panel>
  );
}

interface WorkProps {
  kind: string;
  base: string;
  detail?: ObjectDetail;
  /** After a successful apply. */
  done: (applied: string) => void;
}

function Work({ kind, base, detail, done }: WorkProps) {
  const { t } = useT();
  const knowledge = useKnowledge();
  const formable = hasForm(kind);
  const [as, setAs] = useParam('as', formable ? 'form' : 'yaml');
  const [text, setText] = useState(base);
  // What the text here was when its editing began.
  const [origin, setOrigin] = useState(base);
  const [reveal, setReveal] = useState<{ line: number; n: number }>();
  const [applying, setApplying] = useState(false);
  const isNew = detail === undefined;
  const dirty = isNew ? text.trim() !== '' : text !== base;
  // Somebody else's change arrives while nothing was edited here: take it over.
  if (base !== origin && (text === origin || text === base)) {
    setOrigin(base);
    setText(base);
  }
  const moved = !isNew && base !== origin && !applying;
  useGuard(!isNew && dirty);
  const checked = useCheck(text, true);
  const edit = useEdit(text, setText);
  const form = formable && as === 'form';
  const Form = formable ? forms[kind] : null;
  const readable = single(text) !== null;
  const jump = (line: number) => {
    setAs('yaml');
    setReveal((r) => ({ line, n: (r?.n ?? 0) + 1 }));
  };
  return (
    <>
      <div className="work">
        <div className="col gap-m">
          <div className="row between wrap">
            {formable ? (
              <Seg label={t('rule.as')} value={form ? 'form' : 'yaml'} onChange={setAs} options={[{ id: 'form', label: t('rule.form') }, { id: 'yaml', label: t('rule.yaml') }]} />
            ) : (
              <span className="muted small">{kind ? t('rule.yamlOnly', { kind }) : t('rule.yamlMany')}</span>
            )}
            <CopyButton text={text} label={t('rule.copyYaml')} />
          </div>
          {moved && <Note tone="warn">{t('rule.moved')}</Note>}
          {form && Form ? (
            readable ? <Form edit={edit} knowledge={knowledge} isNew={isNew} /> : <div className="panel"><Empty icon="alert" title={t('rule.unreadable')} actions={<button type="button" className="btn" onClick={() => setAs('yaml')}>{t('rule.toYaml')}</button>}>{t('rule.unreadableHelp')}</Empty></div>
          ) : (
            <div className="panel editorpanel">
              <Suspense fallback={<div className="pad"><Skeleton rows={14} /></div>}>
                <Editor label={t('rule.editorLabel')} value={text} onChange={setText} marks={checked.marks} knowledge={knowledge} reveal={reveal} />
              </Suspense>
            </div>
          )}
        </div>
        <div className="col gap-l">
          <Verdict checked={checked} nothing={text.trim() === ''} dirty={dirty} jump={jump} />
          {detail && <Status detail={detail} />}
          <Kubectl text={text} />
        </div>
      </div>
      <div className="applybar">
        <span className="muted grow">{dirty ? t('rule.changed') : t('rule.unchanged')}</span>
        {!isNew && <button type="button" className="btn" disabled={!dirty} onClick={() => setText(base)}>{t('rule.discard')}</button>}
        <button type="button" className="btn primary" disabled={!dirty || text.trim() === '' || checked.marks.some((m) => m.severity === 'error')} onClick={() => setApplying(true)}>{t('rule.review')}</button>
      </div>
      {applying && <ApplyDialog yaml={text} close={() => setApplying(false)} done={() => { setOrigin(text); done(text); }} />}
    </>
  );
}

function DeleteButton({ kind, namespace, name, leave }: { kind: string; namespace: string; name: string; leave: (leaving: boolean) => void }) {
  const { t } = useT();
  const client = useQueryClient();
  const [, navigate] = useLocation();
  const [asking, setAsking] = useState(false);
  const remove = useMutation({
    // From now on nobody asks for the object: the news of its end comes before the answer.
    onMutate: () => leave(true),
    onError: () => leave(false),
    mutationFn: () => del('/api/malla/v1/objects/{kind}/{namespace}/{name}', { path: { kind, namespace, name } }),
    onSuccess: () => {
      toast('ok', t('rule.deleted', { name: `${kind} ${namespace}/${name}` }));
      client.removeQueries({ queryKey: ['object', kind, namespace, name] });
      void client.invalidateQueries({ queryKey: ['objects'] });
      navigate('/rules');
    },
  });
  return (
    <>
      <button type="button" className="btn danger" onClick={() => setAsking(true)}><Icon name="trash" size={16} />{t('action.delete')}</button>
      {asking && (
        <Dialog
          narrow
          title={t('rule.deleteTitle', { name })}
          onClose={() => setAsking(false)}
          footer={
            <>
              <button type="button" className="btn" onClick={() => setAsking(false)}>{t('action.cancel')}</button>
              <button type="button" className="btn danger" disabled={remove.isPending} onClick={() => remove.mutate()}>{t('action.delete')}</button>
            </>
          }
        >
          <p className="break">{t('rule.deleteHelp', { name: `${kind} ${namespace}/${name}` })}</p>
          {remove.error && <Refused error={remove.error} />}
        </Dialog>
      )}
    </>
  );
}

/** Whatever one has as a file: any kinds, several documents. */
function NewFromYaml() {
  const { t } = useT();
  const [, navigate] = useLocation();
  const after = (text: string) => {
    const [first, ...more] = objectsOf(text);
    navigate(first && more.length === 0 ? path('rules', first.kind, first.namespace || 'default', first.name) : '/rules');
  };
  return (
    <>
      <Head title={t('rule.yamlTitle')} sub={t('rule.newSub')} />
      <Work kind="" base="" done={after} />
    </>
  );
}

function NewRule({ kind }: { kind: string }) {
  const { t } = useT();
  const [, navigate] = useLocation();
  const [namespace] = useParam('ns', 'default');
  const [host] = useParam('host');
  const kinds = useQuery(q.kinds());
  const services = useQuery({ ...q.services(false), enabled: host !== '' });
  // The service's own versions: with only one there is nothing to tell apart.
  const versions = services.data?.find((s) => s.namespace === namespace && s.name === host)?.versions.filter((v) => /^[a-z0-9][a-z0-9.-]*$/i.test(v));
  const seeded = versions && (versions.length > 1 ? versions : []);
  return (
    <>
      <Head title={t('rule.newTitle', { kind })} sub={t('rule.newSub')} />
      <Loaded query={kinds}>
        {(list) => {
          const found = list.find((k) => k.kind === kind);
          if (!found) return <Empty icon="question" title={t('rule.noKind', { kind })} actions={<Link href="/rules" className="btn">{t('nav.rules')}</Link>} />;
          if (services.isLoading) return <Skeleton rows={10} />;
          return <Work kind={kind} base={template(found, namespace, host, seeded)} done={(text) => { const id = identity(text); if (id.name) navigate(path('rules', id.kind, id.namespace || 'default', id.name)); }} />;
        }}
      </Loaded>
    </>
  );
}

function OldRule({ kind, namespace, name }: { kind: string; namespace: string; name: string }) {
  const { t } = useT();
  const [leaving, setLeaving] = useState(false);
  const query = useQuery({ ...q.object(kind, namespace, name), refetchInterval: 10_000, enabled: !leaving });
  const changes = useQuery(q.changes({ kind, namespace, name }));
  const [tab, setTab] = useParam('tab', 'edit');
  return (
    <>
      <Head title={name} sub={`${kind} · ${namespace}`}>
        {query.data && <ActiveOn active={query.data.active} long />}
        <DeleteButton kind={kind} namespace={namespace} name={name} leave={setLeaving} />
      </Head>
      <Tabs label={name} value={tab === 'history' ? 'history' : 'edit'} onChange={setTab} tabs={[{ id: 'edit', label: t('rule.edit') }, { id: 'history', label: t('rules.history'), count: changes.data?.length }]} />
      {tab === 'history' ? (
        <Panel><Loaded query={changes}>{(list) => <Changes list={list} />}</Loaded></Panel>
      ) : (
        <Loaded query={query} skeleton={<div className="panel pad"><Skeleton rows={14} /></div>}>{(detail) => <Work kind={kind} base={detail.yaml} detail={detail} done={() => void query.refetch()} />}</Loaded>
      )}
    </>
  );
}

export default function Rule({ kind, namespace, name }: { kind: string; namespace?: string; name?: string }) {
  return namespace !== undefined && name !== undefined ? <OldRule kind={kind} namespace={namespace} name={name} /> : kind === 'yaml' ? <NewFromYaml /> : <NewRule kind={kind} />;
}
