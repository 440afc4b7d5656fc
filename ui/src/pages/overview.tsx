/** The mesh at a glance. */
import { useQuery } from '@tanstack/react-query';
import { Suspense, lazy, useMemo } from 'react';
import { Link } from 'wouter';
import { q } from '../api/queries';
import type { Overview as Data } from '../api/types';
import { useT } from '../i18n';
import { bytes, compact, ms, rate, share } from '../lib/format';
import { useNow } from '../lib/hooks';
import { path } from '../lib/url';
import { TimeRangeLive, useLive } from '../ui/livebutton';
import { ChangeRow, Findings, When } from '../ui/objects';
import { Empty, Head, Loaded, Note, Panel, Skeleton, shareTone } from '../ui/parts';

const Chart = lazy(() => import('../ui/chart').then((m) => ({ default: m.Chart })));

function Signals({ signals }: { signals: Data['signals'] }) {
  const { t, lang } = useT();
  const { times, rps, errors, p99 } = useMemo(
    () => ({
      times: signals.series.map((s) => s.t),
      rps: signals.series.map((s) => s.rps),
      errors: signals.series.map((s) => s.errorShare),
      p99: signals.series.map((s) => s.p99),
    }),
    [signals.series],
  );
  const tiles = [
    { id: 'rps', label: t('overview.rps'), big: compact(signals.rps, lang), unit: '/s', values: rps, color: 'c1', format: (v: number | null) => rate(v, lang), max: 1 },
    { id: 'errors', label: t('overview.errors'), big: share(signals.errorShare, lang), unit: '', values: errors, color: 'c5', format: (v: number | null) => share(v, lang), max: 0.01 },
    { id: 'p99', label: t('overview.p99'), big: ms(signals.p99, lang), unit: '', values: p99, color: 'c4', format: (v: number | null) => ms(v, lang), max: 10 },
  ];
  return (
    <div className="grid three signals">
      {tiles.map((tile) => (
        <section key={tile.id} className="panel tile" aria-label={tile.label}>
          <span className="lab">{tile.label}</span>
          <span className="big">
            {tile.big}
            <small>{tile.unit}</small>
            {tile.id === 'p99' && <small className="side-figures">{t('overview.p50p90', { p50: ms(signals.p50, lang), p90: ms(signals.p90, lang) })}</small>}
          </span>
          <Suspense fallback={<div className="chart-hole" />}>
            <Chart label={tile.label} times={times} lines={[{ label: tile.label, color: tile.color, values: tile.values, fill: true }]} format={tile.format} max={tile.max} height={120} sync="overview" legend={false} />
          </Suspense>
        </section>
      ))}
    </div>
  );
}

function Worst({ worst }: { worst: Data['worst'] }) {
  const { t, lang } = useT();
  return (
    <Panel title={t('overview.worst')} flush actions={<Link href="/services" className="small">{t('overview.allServices')}</Link>}>
      {worst.length === 0 ? (
        <Empty icon="services" title={t('overview.noTraffic')} actions={<Link href="/learn" className="btn">{t('overview.startLesson')}</Link>}>
          {t('overview.noTrafficHelp')}
        </Empty>
      ) : (
        <table className="table">
          <thead>
            <tr>
              <th scope="col">{t('col.service')}</th>
              <th scope="col" className="num mid">{t('col.rps')}</th>
              <th scope="col" className="num">{t('col.errors')}</th>
              <th scope="col" className="num">{t('col.p99')}</th>
            </tr>
          </thead>
          <tbody>
            {worst.map((s) => (
              <tr key={`${s.namespace}/${s.name}`}>
                <td className="break">
                  <Link href={path('services', s.namespace, s.name)} className="name">{s.name}</Link>
                  <span className="faint">{' '}{s.namespace}</span>
                </td>
                <td className="num mid">{rate(s.rps, lang)}</td>
                <td className={`num t-${shareTone(s.errorShare)}`}>{share(s.errorShare, lang)}</td>
                <td className="num">{ms(s.p99, lang)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </Panel>
  );
}

function Proxies({ proxies }: { proxies: Data['proxies'] }) {
  const { t } = useT();
  const versions = Object.entries(proxies.versions).sort((a, b) => b[1] - a[1]);
  const all = proxies.total > 0 && proxies.synced === proxies.total;
  return (
    <Panel title={t('overview.proxies')} actions={<Link href="/proxies" className="small">{t('overview.allProxies')}</Link>}>
      {proxies.total === 0 ? (
        <Empty icon="proxies" title={t('overview.noProxies')}>{t('overview.noProxiesHelp')}</Empty>
      ) : (
        <div className="col gap-m">
          <p className="figure">
            <b>{proxies.synced}</b>
            <span className="muted">{t('overview.inSync', { total: proxies.total })}</span>
          </p>
          <div className="bar" aria-hidden="true">
            <span className={all ? 'ok' : 'warn'} style={{ width: `${(100 * proxies.synced) / proxies.total}%` }} />
          </div>
          {proxies.stale > 0 && <Note tone="warn">{t('overview.stale', { count: proxies.stale })}</Note>}
          <div className="row wrap">
            {versions.map(([version, count]) => <span key={version} className="chip mono">{version}{' × '}{count}</span>)}
          </div>
        </div>
      )}
    </Panel>
  );
}

function Certificates({ list }: { list: Data['certificates'] }) {
  const { t } = useT();
  const now = useNow(30_000);
  const tone = (expires: string) => {
    const hours = (new Date(expires).getTime() - now.getTime()) / 3.6e6;
    return hours < 1 ? 'err' : hours < 6 ? 'warn' : 'ok';
  };
  return (
    <Panel title={t('overview.certificates')} actions={<Link href="/security?tab=identities" className="small">{t('overview.allIdentities')}</Link>}>
      {list.length === 0 ? <p className="muted">{t('overview.noCertificates')}</p> : (
        <ul className="lines">
          {list.slice(0, 6).map((c) => (
            <li key={`${c.namespace}/${c.pod}`} className="row between">
              <span className="ellipsis"><span className={`dot ${tone(c.expires)}`} />{' '}{c.pod}</span>
              <span className="muted small"><When time={c.expires} /></span>
            </li>
          ))}
        </ul>
      )}
    </Panel>
  );
}

const signalKinds = ['metrics', 'spans', 'logs'] as const;

/** What the built-in collector keeps; in red or amber what it could not. */
function Telemetry({ every }: { every: number | false }) {
  const { t, lang } = useT();
  const query = useQuery(q.telemetry(every));
  const status = query.data;
  // A console that collects nothing has nothing to say about it.
  if (!status || status.state === 'off') return null;
  const sum = (of: 'dropped' | 'failed' | 'unsafeInMemory') => signalKinds.reduce((n, kind) => n + status[kind][of], 0);
  return (
    <Panel title={t('telemetry.title')}>
      <div className="col gap-m">
        {status.state === 'open' ? (
          <p className="row wrap">
            <span className={`dot ${status.targetsUp < status.targets ? 'warn' : 'ok'}`} />
            {t('telemetry.open', { up: status.targetsUp, targets: status.targets, seconds: status.scrapeInterval, streams: status.logStreams })}
          </p>
        ) : (
          <Note tone={status.state === 'failed' ? 'err' : 'warn'}>{status.state === 'failed' ? t('telemetry.closed', { reason: status.reason ?? '' }) : t('telemetry.opening', { reason: status.reason ?? '' })}{status.fix && <div className="muted">{status.fix}</div>}</Note>
        )}
        {sum('failed') + sum('unsafeInMemory') > 0 && <Note tone="err">{t('telemetry.failed', { lost: compact(sum('failed'), lang), memory: compact(sum('unsafeInMemory'), lang) })}</Note>}
        <table className="table flat">
          <thead>
            <tr>
              <th scope="col">{t('telemetry.signal')}</th>
              <th scope="col" className="num">{t('telemetry.received')}</th>
              <th scope="col" className="num">{t('telemetry.dropped')}</th>
              <th scope="col" className="num">{t('telemetry.kept')}</th>
            </tr>
          </thead>
          <tbody>
            {signalKinds.map((kind) => (
              <tr key={kind}>
                <td>{t(`telemetry.${kind}`)}</td>
                <td className="num">{compact(status[kind].received, lang)}</td>
                <td className={`num ${status[kind].dropped > 0 ? 't-warn' : 'muted'}`}>{compact(status[kind].dropped, lang)}</td>
                <td className="num">{bytes(status[kind].bytes, lang)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </Panel>
  );
}

export function Overview() {
  const { t } = useT();
  const { every } = useLive(5000);
  const query = useQuery(q.overview(every));
  return (
    <>
      <Head title={t('overview.title')} sub={t('overview.sub')}><TimeRangeLive /></Head>
      <Loaded query={query} skeleton={<div className="grid three signals">{[0, 1, 2].map((i) => <section key={i} className="panel tile hole"><Skeleton rows={3} /></section>)}</div>}>
        {(data) => (
          <>
            {data.collector?.note && <Note tone="err">{t('overview.collectorNote', { note: data.collector.note })}</Note>}
            <Signals signals={data.signals} />
            <div className="grid wide-left">
              <Worst worst={data.worst} />
              <Panel title={t('overview.changes')} actions={<Link href="/rules/history" className="small">{t('overview.allChanges')}</Link>}>
                {data.changes.length === 0 ? <p className="muted">{t('overview.noChanges')}</p> : <ul className="lines">{data.changes.slice(0, 6).map((c) => <ChangeRow key={c.id} change={c} />)}</ul>}
              </Panel>
            </div>
            <div className="grid two">
              <Panel title={t('overview.findings')}>
                {data.findings.length === 0 ? <p className="row"><span className="dot ok" />{t('overview.noFindings')}</p> : <Findings list={data.findings.slice(0, 8)} withObject />}
              </Panel>
              <Proxies proxies={data.proxies} />
              <Certificates list={data.certificates} />
              <Telemetry every={every} />
            </div>
          </>
        )}
      </Loaded>
    </>
  );
}
