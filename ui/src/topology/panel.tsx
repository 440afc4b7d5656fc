/** What is known of the chosen node or edge. */
import { Link } from 'wouter';
import type { GraphEdge, GraphNode } from '../api/types';
import { useT } from '../i18n';
import { bytes, ms, rate, share } from '../lib/format';
import { href, path } from '../lib/url';
import { codeColor } from '../ui/chart';
import { Icon } from '../ui/icons';
import { Metrics } from '../ui/metrics';
import { shareTone } from '../ui/parts';
import type { Scene, VNode } from './model';
import { badgeIcons, kindIcons } from './node';

interface Props {
  scene: Scene;
  selected: string;
  select: (id: string) => void;
  close: () => void;
  openNamespace: (namespace: string) => void;
  time: { window: number; end: number | undefined; every: number | false };
}

/** The labels of Istio's metrics that pick out a node as a destination, or as a source for gateways. */
function nodeLabels(n: GraphNode): Record<string, string | undefined> {
  if (n.kind === 'gateway' || n.kind === 'unknown') return { reporter: 'source', source_workload: n.name, source_workload_namespace: n.namespace };
  if (n.kind === 'service' || n.kind === 'external') return { reporter: n.inMesh ? 'destination' : 'source', destination_service_name: n.name, destination_service_namespace: n.namespace };
  return { reporter: n.inMesh ? 'destination' : 'source', destination_workload: n.kind === 'workload' ? n.name : undefined, destination_canonical_service: n.kind === 'version' ? n.name : undefined, destination_workload_namespace: n.namespace, destination_version: n.version };
}
function edgeLabels(source: GraphNode, target: GraphNode): Record<string, string | undefined> {
  const from = source.kind === 'service' || source.kind === 'version' ? { source_canonical_service: source.name } : { source_workload: source.name };
  const to: Record<string, string | undefined> = { ...nodeLabels(target.kind === 'gateway' ? { ...target, kind: 'workload' } : target), reporter: 'source' };
  return { ...from, source_workload_namespace: source.namespace, source_version: source.version, ...to };
}

export function label(n: GraphNode, unknown: string): string {
  return (n.name || unknown) + (n.version ? ` ${n.version}` : '');
}

function Figures({ of }: { of: GraphNode | GraphEdge }) {
  const { t, lang } = useT();
  return (
    <dl className="figures">
      <div><dt>{t('col.rps')}</dt><dd>{rate(of.rps, lang)}</dd></div>
      <div><dt>{t('col.errors')}</dt><dd className={`t-${shareTone(of.errorShare)}`}>{share(of.errorShare, lang)}</dd></div>
      <div><dt>{'p50'}</dt><dd>{ms(of.p50, lang)}</dd></div>
      <div><dt>{'p90'}</dt><dd>{ms(of.p90, lang)}</dd></div>
      <div><dt>{'p99'}</dt><dd>{ms(of.p99, lang)}</dd></div>
    </dl>
  );
}

function Codes({ codes }: { codes: Record<string, number> }) {
  const { t, lang } = useT();
  const list = Object.entries(codes).sort((a, b) => b[1] - a[1]);
  const sum = list.reduce((s, [, r]) => s + r, 0) || 1;
  if (list.length === 0) return null;
  return (
    <div className="col gap-s">
      <h3>{t('graph.codes')}</h3>
      <div className="bar tall" aria-hidden="true">{list.map(([code, r]) => <span key={code} style={{ width: `${(100 * r) / sum}%`, background: `var(--${codeColor(code)})` }} />)}</div>
      <div className="row wrap">{list.map(([code, r]) => <span key={code} className="small"><i className="swatch" style={{ background: `var(--${codeColor(code)})` }} /><b>{code === '0' ? 'TCP' : code}</b>{' '}{rate(r, lang)}</span>)}</div>
    </div>
  );
}

function Peers({ title, list, select, nodes, end }: { title: string; list: GraphEdge[]; select: (id: string) => void; nodes: Map<string, VNode>; end: 'source' | 'target' }) {
  const { t, lang } = useT();
  if (list.length === 0) return null;
  return (
    <div className="col gap-s">
      <h3>{title}</h3>
      <ul className="lines peers">
        {[...list].sort((a, b) => b.rps - a.rps).slice(0, 40).map((e) => {
          const n = nodes.get(e[end])?.node;
          return (
            <li key={e.id}>
              <button type="button" className="peer" onClick={() => select(e.id)}>
                <span className={`dot ${e.rps > 0 ? shareTone(e.errorShare) : ''}`} />
                <span className="grow ellipsis">{n ? label(n, t('graph.unknown')) : e[end]}</span>
                <span className="muted">{rate(e.rps, lang)}</span>
                <span className="muted">{ms(e.p99, lang)}</span>
              </button>
            </li>
          );
        })}
      </ul>
    </div>
  );
}

function NodeBody({ v, scene, select, openNamespace, time }: Props & { v: VNode }) {
  const { t } = useT();
  const n = v.node;
  const nodes = new Map(scene.nodes.map((x) => [x.id, x]));
  const service = n.kind === 'service' && !v.folded;
  return (
    <>
      <div className="row wrap">
        {n.namespace && <span className="chip">{n.namespace}</span>}
        <span className="chip">{t(`graph.kind_${n.kind}`)}</span>
        {!n.inMesh && n.kind !== 'unknown' && n.kind !== 'external' && <span className="chip warn">{t('graph.outside')}</span>}
      </div>
      <Figures of={n} />
      {v.folded ? (
        <button type="button" className="btn" onClick={() => openNamespace(v.namespace)}><Icon name="fold" size={16} />{t('graph.unfold', { count: v.folded.count })}</button>
      ) : (
        <div className="row wrap">
          {service && <Link href={path('services', n.namespace, n.name)} className="btn s">{t('graph.toService')}</Link>}
          {n.namespace && <Link href={href('/logs', { namespace: n.namespace, ...(n.kind === 'service' ? { text: n.name } : { workload: n.name }) })} className="btn s">{t('nav.logs')}</Link>}
          {n.namespace && <Link href={href('/traces', { service: `${n.name}.${n.namespace}` })} className="btn s">{t('nav.traces')}</Link>}
        </div>
      )}
      {n.badges.length > 0 && <ul className="col gap-s">{n.badges.map((b) => <li key={b} className="row small"><Icon name={badgeIcons[b]} size={14} />{t(`badge.${b}`)}</li>)}</ul>}
      {!v.folded && <Metrics labels={nodeLabels(n)} {...time} window={Math.max(300, time.window)} height={104} />}
      <Peers title={t('graph.callers')} list={scene.edges.filter((e) => e.target === v.id)} select={select} nodes={nodes} end="source" />
      <Peers title={t('graph.callees')} list={scene.edges.filter((e) => e.source === v.id)} select={select} nodes={nodes} end="target" />
    </>
  );
}

function EdgeBody({ edge, scene, select, time }: Props & { edge: GraphEdge }) {
  const { t, lang } = useT();
  const find = (id: string) => scene.nodes.find((n) => n.id === id);
  const source = find(edge.source);
  const target = find(edge.target);
  const secure = edge.mtls >= 0.999;
  return (
    <>
      <div className="row wrap">
        {source && <button type="button" className="chip" onClick={() => select(source.id)}>{label(source.node, t('graph.unknown'))}</button>}
        <span className="faint">{'→'}</span>
        {target && <button type="button" className="chip" onClick={() => select(target.id)}>{label(target.node, t('graph.unknown'))}</button>}
      </div>
      <Figures of={edge} />
      <dl className="kv">
        <dt>{t('graph.protocol')}</dt><dd>{edge.protocol.toUpperCase()}</dd>
        <dt>{t('graph.bytes')}</dt><dd>{bytes(edge.bytesPerSecond, lang)}{'/s'}</dd>
        <dt>{t('graph.mtls')}</dt><dd className={`row gap-s ${secure ? 't-ok' : 't-warn'}`}><Icon name={secure ? 'lock' : 'unlock'} size={14} />{secure ? t('graph.allMtls') : t('graph.someMtls', { share: share(edge.mtls, lang) })}</dd>
      </dl>
      <Codes codes={edge.codes} />
      {source && target && !source.folded && !target.folded && <Metrics labels={edgeLabels(source.node, target.node)} {...time} window={Math.max(300, time.window)} height={104} />}
    </>
  );
}

export function SidePanel(props: Props) {
  const { t } = useT();
  const v = props.scene.nodes.find((n) => n.id === props.selected);
  const edge = props.scene.edges.find((e) => e.id === props.selected);
  const title = v ? label(v.node, t('graph.unknown')) : edge ? t('graph.edge') : t('graph.gone');
  return (
    <aside className="gpanel" aria-label={title}>
      <header className="row between">
        <h2 className="row ellipsis"><Icon name={v ? kindIcons[v.node.kind] : 'right'} size={17} /><span className="ellipsis">{title}</span></h2>
        <button type="button" className="btn ghost s icon" onClick={props.close} aria-label={t('action.close')}><Icon name="close" size={15} /></button>
      </header>
      <div className="gbody">
        {v && <NodeBody {...props} v={v} />}
        {edge && <EdgeBody {...props} edge={edge} />}
        {!v && !edge && <p className="muted">{t('graph.goneHelp')}</p>}
      </div>
    </aside>
  );
}
