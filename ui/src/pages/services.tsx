import { useQuery } from '@tanstack/react-query';
import { useMemo } from 'react';
import { Link } from 'wouter';
import { q } from '../api/queries';
import type { ServiceSummary } from '../api/types';
import { useT } from '../i18n';
import { ms, rate, share } from '../lib/format';
import { path, useParam } from '../lib/url';
import { TimeRangeLive, useLive } from '../ui/livebutton';
import { Empty, Head, Loaded, Panel, SearchBox, Select, shareTone } from '../ui/parts';
import { DataTable } from '../ui/table';
import type { Column } from '../ui/table';

/** "3/5" as numbers. */
export function sidecars(text: string): [number, number] {
  const [have, all] = text.split('/').map(Number);
  return [have || 0, all || 0];
}

export function Sidecars({ text }: { text: string }) {
  const [have, all] = sidecars(text);
  return <span className={all === 0 ? 'faint' : have === all ? '' : 't-warn'}>{text}</span>;
}

export default function Services() {
  const { t, lang } = useT();
  const { every } = useLive(5000);
  const [text, setText] = useParam('q');
  const [namespace, setNamespace] = useParam('ns');
  const query = useQuery(q.services(every));
  const namespaces = useMemo(() => [...new Set((query.data ?? []).map((s) => s.namespace))].sort(), [query.data]);
  const rows = useMemo(() => {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    return (query.data ?? []).filter(
      (s) => (!namespace || s.namespace === namespace) && words.every((w) => `${s.name} ${s.namespace} ${s.hosts.join(' ')}`.toLowerCase().includes(w)),
    );
  }, [query.data, text, namespace]);
  const columns: Column<ServiceSummary>[] = [
    {
      id: 'name',
      header: t('col.service'),
      sort: (s) => s.name,
      cell: (s) => (
        <div className="col gap-s name-cell">
          <Link href={path('services', s.namespace, s.name)} className="name break">{s.name}</Link>
        </div>
      ),
    },
    { id: 'ns', header: t('col.namespace'), sort: (s) => s.namespace, keep: 'mid', cell: (s) => <span className="muted break">{s.namespace}</span> },
    { id: 'versions', header: t('col.versions'), keep: 'lo', cell: (s) => <span className="row wrap gap-s">{s.versions.map((v) => <span key={v} className="chip">{v}</span>)}</span> },
    { id: 'ports', header: t('col.ports'), keep: 'lo', cell: (s) => <span className="muted">{s.ports.map((p) => `${p.port} ${p.protocol}`).join(', ')}</span> },
    { id: 'rps', header: t('col.rps'), num: true, sort: (s) => s.rps, cell: (s) => <span className={s.rps === 0 ? 'faint' : ''}>{rate(s.rps, lang)}</span> },
    { id: 'errors', header: t('col.errors'), num: true, sort: (s) => s.errorShare, cell: (s) => (s.rps === 0 ? <span className="faint">{'–'}</span> : <span className={`t-${shareTone(s.errorShare)}`}>{share(s.errorShare, lang)}</span>) },
    { id: 'p99', header: t('col.p99'), num: true, keep: 'mid', sort: (s) => s.p99, cell: (s) => ms(s.p99, lang) },
    { id: 'sidecars', header: t('col.sidecars'), num: true, keep: 'mid', sort: (s) => sidecars(s.sidecars)[0], cell: (s) => <Sidecars text={s.sidecars} /> },
  ];
  return (
    <>
      <Head title={t('nav.services')} sub={t('services.sub')}><TimeRangeLive /></Head>
      <div className="filters">
        <SearchBox value={text} onChange={setText} label={t('services.search')} />
        <Select value={namespace} onChange={setNamespace} label={t('col.namespace')} options={namespaces} all={t('filter.allNamespaces')} />
        <span className="muted small">{t('services.count', { count: rows.length })}</span>
      </div>
      <Panel flush title={undefined}>
        <Loaded query={query}>
          {(all) => (
            <DataTable
              columns={columns}
              rows={rows}
              rowKey={(s) => `${s.namespace}/${s.name}`}
              rowHref={(s) => path('services', s.namespace, s.name)}
              label={t('nav.services')}
              initialSort="rps.desc"
              empty={
                all.length === 0 ? (
                  <Empty icon="services" title={t('services.none')} actions={<Link href="/learn/q0" className="btn primary">{t('services.noneAction')}</Link>}>{t('services.noneHelp')}</Empty>
                ) : (
                  <Empty icon="search" title={t('filter.nothing')} actions={<button type="button" className="btn" onClick={() => { setText(''); setNamespace(''); }}>{t('filter.clear')}</button>} />
                )
              }
            />
          )}
        </Loaded>
      </Panel>
    </>
  );
}
