/** A node of the graph: a donut whose arc is the share of errors, a name, figures, badges. */
import type { Node, NodeProps } from '@xyflow/react';
import { createContext, memo, useContext } from 'react';
import type { GraphNode } from '../api/types';
import { useT } from '../i18n';
import { ms, rate } from '../lib/format';
import { Icon } from '../ui/icons';
import type { IconName } from '../ui/icons';
import { errorTone } from './draw';
import type { VNode } from './model';

export type Badge = GraphNode['badges'][number];
export const badgeIcons: Record<Badge, IconName> = {
  vs: 'rules', dr: 'layers', fault: 'bolt', timeout: 'clock', retry: 'retry', mirror: 'mirror', breaker: 'breaker', affinity: 'pin', 'mtls-strict': 'lock', authz: 'security', jwt: 'key', gateway: 'gateways',
};
export const kindIcons: Record<GraphNode['kind'], IconName> = { service: 'services', workload: 'cube', version: 'cube', gateway: 'gateways', unknown: 'question', external: 'globe' };

export interface NodeData extends Record<string, unknown> {
  v: VNode;
  dim: boolean;
  found: boolean;
}
export type FlowNode = Node<NodeData, 'mesh'>;

/** Whether names cannot be read anyway. */
export const Far = createContext(false);

const around = 2 * Math.PI * 25;

export const MeshNode = memo(function MeshNode({ data, selected }: NodeProps<FlowNode>) {
  const { t, lang } = useT();
  const { v, dim, found } = data;
  const n = v.node;
  const tone = errorTone(n.errorShare);
  const far = useContext(Far);
  if (far) return <div className={`mnode far${dim ? ' dim' : ''}${found ? ' found' : ''}${selected ? ' selected' : ''}`}><span className={`donut ${n.rps > 0 ? tone : 'idle'}`} title={n.name} /></div>;
  const arc = n.errorShare > 0 ? Math.max(0.03, n.errorShare) : 0;
  return (
    <div className={`mnode${dim ? ' dim' : ''}${found ? ' found' : ''}${selected ? ' selected' : ''}${n.inMesh ? '' : ' outside'}${v.folded ? ' folded' : ''}`}>
      <span className="donut">
        <svg width="58" height="58" viewBox="0 0 58 58" aria-hidden="true">
          <circle cx="29" cy="29" r="28" className="disc" />
          <circle cx="29" cy="29" r="25" className={n.rps > 0 ? 'ring' : 'ring idle'} />
          {arc > 0 && <circle cx="29" cy="29" r="25" className={`arc ${tone}`} strokeDasharray={`${arc * around} ${around}`} transform="rotate(-90 29 29)" />}
        </svg>
        <Icon name={v.folded ? 'fold' : kindIcons[n.kind]} size={20} />
      </span>
      <span className="mtext">
        <span className="mname ellipsis">{n.kind === 'unknown' && n.name === '' ? t('graph.unknown') : n.name}{n.version && <span className="mversion">{n.version}</span>}</span>
        <span className="mfig ellipsis">{v.folded ? t('graph.foldedCount', { count: v.folded.count }) : n.rps > 0 ? `${rate(n.rps, lang)} · ${ms(n.p99, lang)}` : t('graph.idle')}</span>
      </span>
      {n.badges.length > 0 && <span className="mbadges" aria-hidden="true">{n.badges.slice(0, 4).map((b) => <span key={b} className={b === 'fault' ? 'bad' : undefined} title={t(`badge.${b}`)}><Icon name={badgeIcons[b]} size={11} /></span>)}</span>}
    </div>
  );
});
