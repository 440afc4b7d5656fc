/**
 * The stage: nodes are DOM (readable, focusable) placed by React Flow; edges are one canvas beneath them,
 * so that thousands of them and their moving dots cost one draw per frame.
 */
import { ReactFlow, ReactFlowProvider, applyNodeChanges, useReactFlow, useStore, useStoreApi } from '@xyflow/react';
import type { NodeChange } from '@xyflow/react';
import '@xyflow/react/dist/base.css';
import { useCallback, useEffect, useMemo, useRef, useState } from 'react';
import type { MouseEvent } from 'react';
import type { GraphEdge } from '../api/types';
import { useT } from '../i18n';
import { bytes, ms, rate, share } from '../lib/format';
import { useMedia } from '../lib/hooks';
import { useTheme } from '../lib/theme';
import { Icon } from '../ui/icons';
import { draw, hit, palette, wires } from './draw';
import type { Options, Wire } from './draw';
import { layout, size } from './layout';
import type { Direction, Positions } from './layout';
import { matching, neighbours } from './model';
import type { Scene } from './model';
import { Far, MeshNode } from './node';
import type { FlowNode } from './node';
import { label as nodeLabel } from './panel';
import { picture } from './picture';

export type LabelKind = 'rate' | 'p50' | 'p99' | 'errors' | 'bytes' | 'none';

interface Props {
  scene: Scene;
  find: string;
  label: LabelKind;
  animate: boolean;
  selected: string;
  select: (id: string) => void;
  openNamespace: (namespace: string) => void;
}

const nodeTypes = { mesh: MeshNode };
const link = (e: { source: string; target: string }) => `${e.source}\u0000${e.target}`;

/** Below this zoom names cannot be read, and many nodes are drawn as mere rings. */
const farZoom = 0.36;
const manyNodes = 150;

/** The newest graph, except while the reader moves about in a big one: taking it over would take too long for a frame. */
function useSteady(newest: Scene) {
  const [, again] = useState(0);
  const moving = useRef(false);
  const kept = useRef(newest);
  const latest = useRef(newest);
  latest.current = newest;
  if (!moving.current || newest.nodes.length < manyNodes) kept.current = newest;
  const stage = useRef<HTMLDivElement>(null);
  const setMoving = useCallback((now: boolean) => {
    moving.current = now;
    // The nodes are a layer of their own meanwhile, which the browser shifts instead of painting it anew.
    stage.current?.toggleAttribute('data-moving', now);
    if (!now && kept.current !== latest.current) again((n) => n + 1);
  }, []);
  return { scene: kept.current, stage, moving, setMoving };
}

/** Positions that stay while the graph only loses or regains what was laid out already. */
function usePositions(scene: Scene, direction: Direction): { positions: Positions; stamp: number } {
  const [state, setState] = useState<{ positions: Positions; links: Set<string>; stamp: number; direction: Direction }>({ positions: new Map(), links: new Set(), stamp: 0, direction });
  const latest = useRef(state);
  latest.current = state;
  useEffect(() => {
    const { positions, links, direction: before } = latest.current;
    const covered = before === direction && scene.nodes.every((n) => positions.has(n.id)) && scene.edges.every((e) => links.has(link(e))) && scene.nodes.length * 2 >= positions.size;
    if (covered) return;
    let off = false;
    void layout(scene, direction).then((made) => {
      if (!off) setState((s) => ({ positions: made, links: new Set(scene.edges.map(link)), stamp: s.stamp + 1, direction }));
    });
    return () => {
      off = true;
    };
  }, [scene, direction]);
  return state;
}

function useEdgeLabel(kind: LabelKind) {
  const { lang } = useT();
  return useCallback(
    (e: GraphEdge): string => {
      if (e.rps === 0 && kind !== 'bytes') return '';
      switch (kind) {
        case 'rate': return rate(e.rps, lang);
        case 'p50': return e.p50 === null ? '' : ms(e.p50, lang);
        case 'p99': return e.p99 === null ? '' : ms(e.p99, lang);
        case 'errors': return e.errorShare > 0 ? share(e.errorShare, lang) : '';
        case 'bytes': return e.bytesPerSecond > 0 ? `${bytes(e.bytesPerSecond, lang)}/s` : '';
        default: return '';
      }
    },
    [kind, lang],
  );
}

/** Draws when something changed, and on every frame while dots move and the page is in front. */
function useDrawing(canvas: React.RefObject<HTMLCanvasElement | null>, scene: Scene, positions: Positions, list: Wire[], options: Omit<Options, 'time'>, animate: boolean, movingNow: React.RefObject<boolean>) {
  const store = useStoreApi();
  const redraw = useRef(() => {});
  const latest = useRef({ scene, positions, list, options, animate });
  latest.current = { scene, positions, list, options, animate };
  useEffect(() => {
    const element = canvas.current;
    const ctx = element?.getContext('2d');
    if (!element || !ctx) return;
    let frame = 0;
    let later: ReturnType<typeof setTimeout> | undefined;
    let drawn: [number, number, number] = [0, 0, 1];
    const paint = (now: number) => {
      frame = 0;
      const s = latest.current;
      const { width, height, transform } = store.getState();
      const dpr = Math.min(2, window.devicePixelRatio || 1);
      if (element.width !== Math.round(width * dpr) || element.height !== Math.round(height * dpr)) {
        element.width = Math.round(width * dpr);
        element.height = Math.round(height * dpr);
        element.style.width = `${width}px`;
        element.style.height = `${height}px`;
      }
      const moving = s.animate && s.list.length <= 400;
      draw(ctx, s.scene, s.positions, s.list, { x: transform[0], y: transform[1], k: transform[2], width, height, dpr }, { ...s.options, time: moving ? now : null });
      drawn = [...transform];
      element.style.transform = '';
      if (moving && !document.hidden) ask();
    };
    const ask = () => {
      if (frame === 0) frame = requestAnimationFrame(paint);
    };
    // Thousands of edges take longer than a frame: while the reader pans, the last picture moves along.
    const follow = () => {
      if (latest.current.list.length <= 1200) return ask();
      const [x, y, k] = store.getState().transform;
      const scale = k / drawn[2];
      element.style.transform = `matrix(${scale}, 0, 0, ${scale}, ${x - drawn[0] * scale}, ${y - drawn[1] * scale})`;
      clearTimeout(later);
      later = setTimeout(settle, 110);
    };
    const settle = () => {
      if (movingNow.current) later = setTimeout(settle, 110);
      else ask();
    };
    const stop = store.subscribe((s, before) => {
      if (s.width !== before.width || s.height !== before.height) ask();
      else if (s.transform !== before.transform) follow();
    });
    document.addEventListener('visibilitychange', ask);
    redraw.current = ask;
    ask();
    return () => {
      cancelAnimationFrame(frame);
      clearTimeout(later);
      document.removeEventListener('visibilitychange', ask);
      stop();
    };
  }, [canvas, store, movingNow]);
  useEffect(() => redraw.current(), [scene, positions, list, options, animate]);
}

function Stage({ scene: newest, find, label, animate, selected, select, openNamespace }: Props) {
  const { t, lang } = useT();
  const theme = useTheme();
  const flow = useReactFlow();
  const canvas = useRef<HTMLCanvasElement>(null);
  const { scene, stage, moving, setMoving } = useSteady(newest);
  const far = useStore((s) => s.transform[2] < farZoom) && scene.nodes.length > manyNodes;
  const direction: Direction = useMedia('(max-aspect-ratio: 9/10)') ? 'DOWN' : 'RIGHT';
  const { positions, stamp } = usePositions(scene, direction);
  const [nodes, setNodes] = useState<FlowNode[]>([]);
  const [hover, setHover] = useState<string | null>(null);
  const labelOf = useEdgeLabel(label);

  const found = useMemo(() => matching(scene, find), [scene, find]);
  const focus = useMemo(() => {
    const edge = scene.edges.find((e) => e.id === selected);
    if (edge) return { nodes: new Set([edge.source, edge.target]), edge: edge.id };
    if (scene.nodes.some((n) => n.id === selected)) return { nodes: neighbours(scene, selected), edge: null };
    return found ? { nodes: found, edge: null } : null;
  }, [scene, selected, found]);

  // Data of the nodes follows the scene; places follow the layout and the reader's drags.
  useEffect(() => {
    setNodes((old) => {
      const before = new Map(old.map((n) => [n.id, n]));
      return scene.nodes.flatMap((v): FlowNode[] => {
        const at = before.get(v.id)?.position ?? positions.get(v.id);
        if (!at) return [];
        const n = v.node;
        return [{
          id: v.id, type: 'mesh', position: at, width: size.width, height: size.height, selected: v.id === selected, connectable: false, deletable: false,
          ariaLabel: t('graph.nodeLabel', { name: nodeLabel(n, t('graph.unknown')), kind: t(`graph.kind_${n.kind}`), rate: rate(n.rps, lang), errors: share(n.errorShare, lang) }),
          data: { v, dim: focus !== null && !focus.nodes.has(v.id), found: found?.has(v.id) ?? false },
        }];
      });
    });
  }, [scene, positions, selected, focus, found, t, lang]);
  useEffect(() => {
    setNodes((old) => old.map((n) => ({ ...n, position: positions.get(n.id) ?? n.position })));
    if (stamp > 0) requestAnimationFrame(() => void flow.fitView({ padding: 0.1, maxZoom: 1.15 }));
  }, [positions, stamp, flow]);

  const places = useMemo<Positions>(() => new Map(nodes.map((n) => [n.id, n.position])), [nodes]);
  const list = useMemo(() => wires(scene, places, direction), [scene, places, direction]);
  // eslint-disable-next-line react-hooks/exhaustive-deps -- the theme decides the colours
  const colors = useMemo(() => palette(), [theme]);
  const options = useMemo(() => ({ palette: colors, label: labelOf, focus, hover, selected: selected || null }), [colors, labelOf, focus, hover, selected]);
  useDrawing(canvas, scene, places, list, options, animate, moving);

  const onNodesChange = useCallback(
    (changes: NodeChange<FlowNode>[]) => {
      const chosen = changes.find((c) => c.type === 'select' && c.selected);
      if (chosen && chosen.type === 'select') select(chosen.id);
      setNodes((old) => applyNodeChanges(changes.filter((c) => c.type !== 'select' && c.type !== 'remove'), old));
    },
    [select],
  );
  const edgeAt = (event: MouseEvent) => {
    const p = flow.screenToFlowPosition({ x: event.clientX, y: event.clientY });
    return hit(list, p.x, p.y, 9 / flow.getZoom());
  };
  const save = async () => {
    const blob = await picture(scene, places, list, { palette: colors, label: labelOf }, (n) => `${rate(n.rps, lang)} · ${ms(n.p99, lang)}`);
    if (!blob) return;
    const a = document.createElement('a');
    a.href = URL.createObjectURL(blob);
    a.download = 'malla-topology.png';
    a.click();
    setTimeout(() => URL.revokeObjectURL(a.href), 10_000);
  };
  return (
    <div ref={stage} className={`gcanvas${hover ? ' onedge' : ''}`} data-layouts={stamp}>
      <canvas ref={canvas} aria-hidden="true" />
      <Far.Provider value={far}>
        <ReactFlow
          nodes={nodes}
          edges={[]}
          nodeTypes={nodeTypes}
          onNodesChange={onNodesChange}
          onNodeClick={(_, n) => select(n.id)}
          onNodeDoubleClick={(_, n) => n.data.v.folded && openNamespace(n.data.v.namespace)}
          onPaneClick={(e) => select(edgeAt(e as unknown as MouseEvent)?.edge.id ?? '')}
          onMoveStart={() => setMoving(true)}
          onMoveEnd={() => setMoving(false)}
          onPaneMouseMove={(e) => !moving.current && setHover(edgeAt(e as unknown as MouseEvent)?.edge.id ?? null)}
          minZoom={0.04}
          maxZoom={2.5}
          nodesConnectable={false}
          edgesFocusable={false}
          deleteKeyCode={null}
          selectionKeyCode={null}
          multiSelectionKeyCode={null}
          zoomOnDoubleClick={false}
          proOptions={{ hideAttribution: true }}
          aria-label={t('nav.topology')}
          ariaLabelConfig={{ 'node.a11yDescription.default': t('graph.nodeHelp'), 'node.a11yDescription.keyboardDisabled': t('graph.nodeHelp'), 'edge.a11yDescription.default': t('graph.edge') }}
        />
      </Far.Provider>
      <div className="gtools" role="toolbar" aria-label={t('graph.tools')}>
        <button type="button" className="btn icon" onClick={() => void flow.zoomIn({ duration: 120 })} aria-label={t('graph.zoomIn')} title={t('graph.zoomIn')}><Icon name="plus" size={16} /></button>
        <button type="button" className="btn icon" onClick={() => void flow.zoomOut({ duration: 120 })} aria-label={t('graph.zoomOut')} title={t('graph.zoomOut')}><span className="minus" aria-hidden="true" /></button>
        <button type="button" className="btn icon" onClick={() => void flow.fitView({ padding: 0.1, maxZoom: 1.15, duration: 200 })} aria-label={t('graph.fit')} title={t('graph.fit')}><Icon name="fit" size={16} /></button>
        <button type="button" className="btn icon" disabled={places.size === 0} onClick={() => void save()} aria-label={t('graph.export')} title={t('graph.export')}><Icon name="image" size={16} /></button>
      </div>
      <div className="glegend small" aria-hidden="true">
        <span><i className="stroke ok" />{t('graph.legendOk')}</span>
        <span><i className="stroke warn" />{t('graph.legendWarn')}</span>
        <span><i className="stroke err" />{t('graph.legendErr')}</span>
        <span><Icon name="lock" size={12} />{t('graph.mtls')}</span>
      </div>
    </div>
  );
}

export function Canvas(props: Props) {
  return (
    <ReactFlowProvider>
      <Stage {...props} />
    </ReactFlowProvider>
  );
}
