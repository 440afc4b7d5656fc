/** The live picture of the mesh. */
import { keepPreviousData, useQuery } from '@tanstack/react-query';
import { useMemo } from 'react';
import { Link } from 'wouter';
import { q } from '../api/queries';
import type { GraphView } from '../api/types';
import { useT } from '../i18n';
import { useMedia } from '../lib/hooks';
import { useParam, useSetParams } from '../lib/url';
import { Icon } from '../ui/icons';
import { TimeRange, useTime } from '../ui/live';
import { Empty, Head, Loaded, SearchBox, Seg, Select, Skeleton } from '../ui/parts';
import { Canvas } from './canvas';
import type { LabelKind } from './canvas';
import { buildScene, foldAbove, foldedNamespaces } from './model';
import { SidePanel } from './panel';

const views = ['service', 'workload', 'version'] as const;
export const labelKinds = ['rate', 'p50', 'p99', 'errors', 'bytes', 'none'] as const;

function Namespaces({ all, value, onChange }: { all: string[]; value: string; onChange: (v: string) => void }) {
  const { t } = useT();
  const chosen = new Set(value.split(',').filter(Boolean));
  const toggle = (ns: string) => {
    if (!chosen.delete(ns)) chosen.add(ns);
    onChange([...chosen].sort().join(','));
  };
  return (
    <details className="pop">
      <summary className="btn">{chosen.size === 0 ? t('filter.allNamespaces') : chosen.size === 1 ? [...chosen][0] : t('graph.namespaces', { count: chosen.size })}<Icon name="down" size={13} /></summary>
      <div className="popbody">
        {all.map((ns) => <label key={ns} className="check"><input type="checkbox" checked={chosen.has(ns)} onChange={() => toggle(ns)} /><span className="ellipsis">{ns}</span></label>)}
        {chosen.size > 0 && <button type="button" className="btn s" onClick={() => onChange('')}>{t('filter.clear')}</button>}
      </div>
    </details>
  );
}

export default function Topology() {
  const { t } = useT();
  const time = useTime('60', 5000);
  const set = useSetParams();
  const still = useMedia('(prefers-reduced-motion: reduce)');
  const [viewText, setView] = useParam('view', 'service');
  const view: GraphView = (views as readonly string[]).includes(viewText) ? (viewText as GraphView) : 'service';
  const [ns, setNs] = useParam('ns');
  const [find, setFind] = useParam('find');
  const [labelText, setLabel] = useParam('label', 'rate');
  const label: LabelKind = (labelKinds as readonly string[]).includes(labelText) ? (labelText as LabelKind) : 'rate';
  const [idle, setIdle] = useParam('idle');
  const [anim, setAnim] = useParam('anim');
  const [selected, setSelected] = useParam('sel');
  const [foldText, setFold] = useParam('fold', 'auto');
  const [openText] = useParam('open');
  const query = useQuery({ ...q.graph(view, time.window, time.end, ns, time.every), placeholderData: keepPreviousData });
  const services = useQuery(q.services(false)).data;
  const graph = query.data;
  const namespaces = useMemo(
    () => [...new Set([...(graph?.nodes ?? []).map((n) => n.namespace), ...(services ?? []).map((s) => s.namespace), ...ns.split(',')])].filter(Boolean).sort(),
    [graph, services, ns],
  );
  const fold = foldText === 'all' || foldText === 'none' ? foldText : 'auto';
  const scene = useMemo(() => {
    if (!graph) return null;
    const folded = foldedNamespaces(graph, fold, new Set(openText.split(',').filter(Boolean)));
    return { ...buildScene(graph, folded, idle === '1'), folded };
  }, [graph, fold, openText, idle]);
  const openNamespace = (namespace: string) => set({ open: [...new Set([...openText.split(',').filter(Boolean), namespace])].join(','), sel: null });
  const isFolded = (scene?.folded.size ?? 0) > 0;
  return (
    <>
      <Head title={t('nav.topology')}>
        <Seg label={t('graph.view')} value={view} onChange={(v) => { setView(v); setSelected(''); }} options={views.map((id) => ({ id, label: t(`graph.view_${id}`) }))} />
        <TimeRange fallback="60" />
      </Head>
      <div className="filters">
        <SearchBox value={find} onChange={setFind} label={t('graph.find')} />
        <Namespaces all={namespaces} value={ns} onChange={(v) => { setNs(v); setSelected(''); }} />
        <Select value={label} onChange={setLabel} label={t('graph.labels')} options={labelKinds.map((id) => ({ id, label: t(`graph.label_${id}`) }))} />
        <label className="check"><input type="checkbox" checked={idle === '1'} onChange={(e) => setIdle(e.target.checked ? '1' : '')} />{t('graph.showIdle')}</label>
        <label className="check"><input type="checkbox" checked={anim !== '0' && !still} disabled={still} onChange={(e) => setAnim(e.target.checked ? '' : '0')} />{t('graph.animate')}</label>
        {namespaces.length > 1 && (
          <button type="button" className="btn s" aria-pressed={isFolded} onClick={() => { setFold(isFolded ? 'none' : 'all'); set({ open: null, sel: null }); }}>
            <Icon name="fold" size={14} />{t('graph.fold')}
          </button>
        )}
        {graph && graph.nodes.length > foldAbove && <span className="small muted">{t('graph.large', { count: graph.nodes.length })}</span>}
      </div>
      <Loaded query={query} skeleton={<div className="gstage panel pad"><Skeleton rows={8} height={22} /></div>}>
        {() =>
          scene && scene.nodes.length > 0 ? (
            <div className={`gstage${selected ? ' with' : ''}`}>
              <Canvas scene={scene} find={find} label={label} animate={anim !== '0' && !still} selected={selected} select={setSelected} openNamespace={openNamespace} />
              {selected && <SidePanel scene={scene} selected={selected} select={setSelected} close={() => setSelected('')} openNamespace={openNamespace} time={time} />}
            </div>
          ) : (
            <div className="gstage panel">
              <Empty
                icon="topology"
                title={t('graph.empty')}
                actions={
                  <>
                    {idle !== '1' && <button type="button" className="btn" onClick={() => setIdle('1')}>{t('graph.showIdle')}</button>}
                    {time.window < 900 && <button type="button" className="btn" onClick={() => set({ w: '900' })}>{t('graph.lookFurther')}</button>}
                    <Link href="/learn" className="btn">{t('overview.startLesson')}</Link>
                  </>
                }
              >
                {t('graph.emptyHelp')}
              </Empty>
            </div>
          )
        }
      </Loaded>
    </>
  );
}
