/** One service: versions with live weights, instances, rules, policies, figures, traces and logs. */
import { useQuery } from '@tanstack/react-query';
import { Fragment } from 'react';
import { Link } from 'wouter';
import { q } from '../api/queries';
import type { ObjectRef, ServiceDetail } from '../api/types';
import { useT } from '../i18n';
import { ms, rate, share } from '../lib/format';
import { href, path, useParam } from '../lib/url';
import { Icon } from '../ui/icons';
import { TimeRange, useTime } from '../ui/live';
import { Metrics } from '../ui/metrics';
import { ObjectLink } from '../ui/objects';
import { Empty, Head, Loaded, Panel, Tabs, shareTone } from '../ui/parts';
import { DataTable } from '../ui/table';
import { LogList } from './loglist';
import { Sidecars } from './services';
import { TraceList } from './tracelist';

function Versions({ detail }: { detail: ServiceDetail }) {
  const { t, lang } = useT();
  const vs = detail.virtualServices[0];
  return (
    <Panel
      title={t('service.versions')}
      actions={
        detail.versions.length > 1 &&
        (vs ? (
          <Link href={`${path('rules', vs.kind, vs.namespace, vs.name)}?as=form`} className="btn s">{t('service.shift')}</Link>
        ) : (
          <Link href={href('/rules/new/VirtualService', { ns: detail.service.namespace, host: detail.service.name })} className="btn s">{t('service.split')}</Link>
        ))
      }
    >
      <div className="col gap-m">
        {detail.versions.length > 1 && (
          <div className="bar tall" aria-hidden="true">
            {detail.versions.map((v, i) => <span key={v.name} className={`s${(i % 6) + 1}`} style={{ width: `${v.weight * 100}%` }} />)}
          </div>
        )}
        <table className="table flat">
          <thead>
            <tr>
              <th scope="col">{t('col.version')}</th>
              <th scope="col" className="num">{t('service.weight')}</th>
              <th scope="col" className="num mid">{t('col.rps')}</th>
              <th scope="col" className="num">{t('col.errors')}</th>
              <th scope="col" className="num mid">{t('col.p99')}</th>
              <th scope="col" className="lo">{t('service.workloads')}</th>
            </tr>
          </thead>
          <tbody>
            {detail.versions.map((v, i) => (
              <tr key={v.name}>
                <td className="nowrap"><span className={`swatch s${(i % 6) + 1}`} />{v.name}</td>
                <td className="num t-strong">{share(v.weight, lang)}</td>
                <td className="num mid">{rate(v.rps, lang)}</td>
                <td className={`num t-${shareTone(v.errorShare)}`}>{share(v.errorShare, lang)}</td>
                <td className="num mid">{ms(v.p99, lang)}</td>
                <td className="lo muted break">{v.workloads.join(', ')}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </Panel>
  );
}

function Instances({ detail }: { detail: ServiceDetail }) {
  const { t } = useT();
  const ns = detail.service.namespace;
  return (
    <Panel title={t('service.instances', { count: detail.instances.length })} flush>
      <DataTable
        label={t('service.instances', { count: detail.instances.length })}
        sortParam="isort"
        rows={detail.instances}
        rowKey={(i) => i.pod}
        empty={<Empty icon="cube" title={t('service.noInstances')}>{t('service.noInstancesHelp')}</Empty>}
        columns={[
          { id: 'pod', header: t('col.pod'), sort: (i) => i.pod, cell: (i) => <span className="row"><span className={`dot ${i.ready ? 'ok' : 'err'}`} title={i.ready ? t('service.ready') : t('service.notReady')} />{i.proxy ? <Link href={path('proxies', ns, i.pod)} className="nowrap">{i.pod}</Link> : <span className="nowrap">{i.pod}</span>}</span> },
          { id: 'version', header: t('col.version'), sort: (i) => i.version, cell: (i) => i.version },
          { id: 'ip', header: t('col.ip'), keep: 'mid', cell: (i) => <span className="mono">{i.ip}</span> },
          { id: 'zone', header: t('col.zone'), keep: 'mid', sort: (i) => `${i.region}/${i.zone}`, cell: (i) => (i.region || i.zone ? <span className="nowrap" title={`${i.region} / ${i.zone}`}>{i.zone || i.region}</span> : <span className="faint">{'–'}</span>) },
          { id: 'node', header: t('col.node'), keep: 'lo', sort: (i) => i.node, cell: (i) => <span className="nowrap">{i.node}</span> },
          { id: 'proxy', header: t('col.proxy'), keep: 'lo', cell: (i) => i.proxy ? <span className="nowrap">{i.proxy}</span> : <span className="t-warn">{t('service.noProxy')}</span> },
        ]}
      />
    </Panel>
  );
}

function RefCard({ title, list, none, add }: { title: string; list: ObjectRef[]; none: string; add: { to: string; label: string } }) {
  return (
    <Panel title={title} actions={<Link href={add.to} className="btn s ghost"><Icon name="plus" size={14} />{add.label}</Link>}>
      {list.length === 0 ? (
        <p className="muted">{none}</p>
      ) : (
        <ul className="lines">
          {list.map((o) => (
            <li key={`${o.kind}/${o.namespace}/${o.name}`}>
              <ObjectLink of={o} withKind={o.kind !== 'VirtualService' && o.kind !== 'DestinationRule'} />
              {o.summary && <div className="small muted break">{o.summary}</div>}
            </li>
          ))}
        </ul>
      )}
    </Panel>
  );
}

/** A host's name that breaks after its dots. */
function Dotted({ name }: { name: string }) {
  return name.split('.').map((part, i) => <Fragment key={i}>{i > 0 && <>{'.'}<wbr /></>}{part}</Fragment>);
}

function About({ detail }: { detail: ServiceDetail }) {
  const { t } = useT();
  const s = detail.service;
  const seed = { ns: s.namespace, host: s.name };
  return (
    <div className="grid wide-left more">
      <div className="col gap-l">
        <Versions detail={detail} />
        <Instances detail={detail} />
      </div>
      <div className="col gap-l">
        <Panel title={t('service.about')}>
          <dl className="kv">
            <dt>{t('service.hosts')}</dt>
            <dd>{s.hosts.map((h) => <div key={h} className="mono break"><Dotted name={h} /></div>)}</dd>
            <dt>{t('col.ports')}</dt>
            <dd>{s.ports.map((p) => `${p.name ? `${p.name} ` : ''}${p.port} ${p.protocol}`).join(', ')}</dd>
            <dt>{t('col.sidecars')}</dt>
            <dd><Sidecars text={s.sidecars} /></dd>
          </dl>
        </Panel>
        <RefCard title={t('service.routes')} list={detail.virtualServices} none={t('service.noRoutes')} add={{ to: href('/rules/new/VirtualService', seed), label: t('action.new') }} />
        <RefCard title={t('service.destinationRule')} list={detail.destinationRule ? [detail.destinationRule] : []} none={t('service.noDestinationRule')} add={{ to: href('/rules/new/DestinationRule', seed), label: t('action.new') }} />
        <RefCard title={t('service.policies')} list={detail.policies} none={t('service.noPolicies')} add={{ to: href('/rules/new/AuthorizationPolicy', { ns: s.namespace }), label: t('action.new') }} />
      </div>
    </div>
  );
}

const tabs = ['about', 'metrics', 'traces', 'logs'] as const;
type Tab = (typeof tabs)[number];

export default function Service({ namespace, name }: { namespace: string; name: string }) {
  const { t } = useT();
  const time = useTime('900');
  const [asked, setTab] = useParam('tab', 'about');
  const tab: Tab = (tabs as readonly string[]).includes(asked) ? (asked as Tab) : 'about';
  const query = useQuery(q.service(namespace, name, time.every));
  return (
    <>
      <Head title={name} sub={t('service.in', { namespace })}>
        <Link href={href('/topology', { find: name, ns: namespace })} className="btn"><Icon name="topology" size={16} />{t('service.onGraph')}</Link>
        {tab !== 'about' && <TimeRange fallback="900" />}
      </Head>
      <Tabs label={name} value={tab} onChange={setTab} tabs={tabs.map((id) => ({ id, label: t(`service.tab.${id}`) }))} />
      <Loaded query={query}>
        {(detail) => (
          <>
            {tab === 'about' && <About detail={detail} />}
            {tab === 'metrics' && (
              <div className="grid two metrics">
                <Metrics labels={{ reporter: 'destination', destination_service_name: name, destination_service_namespace: namespace }} {...time} show={['codes', 'latency', 'versions', 'bytes']} height={180} sync="service" />
              </div>
            )}
            {tab === 'traces' && <TraceList service={`${name}.${namespace}`} {...time} />}
            {tab === 'logs' && <LogList filter={{ namespace, workload: detail.versions.length === 1 ? detail.versions[0]?.workloads[0] : undefined, text: detail.versions.length === 1 ? undefined : name }} window={time.window} end={time.end} every={time.every} />}
          </>
        )}
      </Loaded>
    </>
  );
}
