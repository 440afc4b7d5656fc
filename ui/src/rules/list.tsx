/** All configuration of all kinds. */
import { useQuery } from '@tanstack/react-query';
import { useMemo } from 'react';
import { Link, useLocation } from 'wouter';
import { q } from '../api/queries';
import type { ObjectSummary } from '../api/types';
import { useT } from '../i18n';
import { path, useParam } from '../lib/url';
import { Menu } from '../ui/dialog';
import { Icon } from '../ui/icons';
import { ActiveOn, When, objectPath } from '../ui/objects';
import { Empty, Head, Loaded, Panel, SearchBox, Select } from '../ui/parts';
import { DataTable } from '../ui/table';

/** The worst of an object's findings, as a mark with a number. */
function Health({ of }: { of: ObjectSummary }) {
  const { t } = useT();
  const errors = of.findings.filter((f) => f.level === 'Error').length;
  const warnings = of.findings.filter((f) => f.level === 'Warning').length;
  if (errors + warnings === 0) return <span className="dot ok" role="img" aria-label={t('rules.noFindings')} title={t('rules.noFindings')} />;
  const title = of.findings.map((f) => `${f.code} ${f.message}`).join('\n');
  return <span className={`chip ${errors ? 'err' : 'warn'}`} title={title}><Icon name="alert" size={12} />{errors + warnings}</span>;
}

export default function Rules() {
  const { t } = useT();
  const [, navigate] = useLocation();
  const [text, setText] = useParam('q');
  const [kind, setKind] = useParam('kind');
  const [namespace, setNamespace] = useParam('ns');
  const [state, setState] = useParam('state');
  const kinds = useQuery(q.kinds()).data;
  const query = useQuery(q.objects());
  const namespaces = useMemo(() => [...new Set((query.data ?? []).map((o) => o.namespace))].sort(), [query.data]);
  const counts = useMemo(() => {
    const by = new Map<string, number>();
    for (const o of query.data ?? []) by.set(o.kind, (by.get(o.kind) ?? 0) + 1);
    return by;
  }, [query.data]);
  const rows = useMemo(() => {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    return (query.data ?? []).filter(
      (o) =>
        (!kind || o.kind === kind) &&
        (!namespace || o.namespace === namespace) &&
        (state === '' || (state === 'findings' ? o.findings.some((f) => f.level !== 'Info') : o.active !== null && o.active.acked < o.active.total)) &&
        words.every((w) => `${o.kind} ${o.namespace} ${o.name}`.toLowerCase().includes(w)),
    );
  }, [query.data, kind, namespace, state, text]);
  const start = (k: string) => navigate(path('rules', 'new', k) + (namespace ? `?ns=${encodeURIComponent(namespace)}` : ''));
  return (
    <>
      <Head title={t('nav.rules')} sub={t('rules.sub')}>
        <Link href="/rules/history" className="btn"><Icon name="clock" size={16} />{t('rules.history')}</Link>
        <Menu
          className="btn primary"
          label={t('rules.new')}
          button={<><Icon name="plus" size={16} />{t('rules.new')}</>}
          items={[...(kinds ?? []).map((k) => ({ id: k.kind, label: k.kind, run: () => start(k.kind) })), { id: 'yaml', label: t('rules.fromYaml'), run: () => start('yaml') }]}
        />
      </Head>
      <div className="filters">
        <SearchBox value={text} onChange={setText} label={t('rules.search')} />
        <Select value={kind} onChange={setKind} label={t('col.kind')} options={(kinds ?? []).map((k) => ({ id: k.kind, label: counts.get(k.kind) ? `${k.kind} (${counts.get(k.kind)})` : k.kind }))} all={t('rules.allKinds')} />
        <Select value={namespace} onChange={setNamespace} label={t('col.namespace')} options={namespaces} all={t('filter.allNamespaces')} />
        <Select value={state} onChange={setState} label={t('rules.state')} options={[{ id: 'findings', label: t('rules.withFindings') }, { id: 'waiting', label: t('rules.waiting') }]} all={t('rules.anyState')} />
      </div>
      <Panel flush>
        <Loaded query={query}>
          {(all) => (
            <DataTable
              label={t('nav.rules')}
              rows={rows}
              rowKey={(o) => `${o.kind}/${o.namespace}/${o.name}`}
              rowHref={objectPath}
              initialSort="kind.asc"
              empty={
                all.length === 0 ? (
                  <Empty icon="rules" title={t('rules.none')} actions={<><button type="button" className="btn primary" onClick={() => start('Gateway')}>{t('rules.firstGateway')}</button><Link href="/learn/q1" className="btn">{t('rules.noneLesson')}</Link></>}>{t('rules.noneHelp')}</Empty>
                ) : (
                  <Empty icon="search" title={t('filter.nothing')} actions={<button type="button" className="btn" onClick={() => { setText(''); setKind(''); setNamespace(''); setState(''); }}>{t('filter.clear')}</button>} />
                )
              }
              columns={[
                { id: 'name', header: t('col.name'), sort: (o) => o.name, cell: (o) => <Link href={objectPath(o)} className="name break">{o.name}</Link> },
                { id: 'kind', header: t('col.kind'), sort: (o) => `${o.kind} ${o.namespace} ${o.name}`, cell: (o) => <span className="break">{o.kind}</span> },
                { id: 'ns', header: t('col.namespace'), sort: (o) => o.namespace, keep: 'mid', cell: (o) => <span className="muted">{o.namespace}</span> },
                { id: 'health', header: t('col.findings'), sort: (o) => -o.findings.length, cell: (o) => <Health of={o} /> },
                { id: 'active', header: t('col.active'), keep: 'mid', cell: (o) => <ActiveOn active={o.active} /> },
                { id: 'manager', header: t('col.manager'), keep: 'lo', sort: (o) => o.manager, cell: (o) => <span className="muted">{o.manager}</span> },
                { id: 'created', header: t('col.created'), keep: 'lo', num: true, sort: (o) => o.created, cell: (o) => <span className="muted"><When time={o.created} /></span> },
              ]}
            />
          )}
        </Loaded>
      </Panel>
    </>
  );
}
