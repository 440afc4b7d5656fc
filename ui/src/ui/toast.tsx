/** Short messages in the corner. */
import { useSyncExternalStore } from 'react';
import type { ReactNode } from 'react';
import { useT } from '../i18n';
import { Icon } from './icons';

interface Toast {
  id: number;
  tone: 'ok' | 'err' | 'info';
  body: ReactNode;
}
let toasts: Toast[] = [];
let serial = 0;
const listeners = new Set<() => void>();
const publish = (next: Toast[]) => {
  toasts = next;
  listeners.forEach((l) => l());
};
const drop = (id: number) => publish(toasts.filter((t) => t.id !== id));

export function toast(tone: Toast['tone'], body: ReactNode, wait = tone === 'err' ? 9000 : 4500) {
  serial += 1;
  const id = serial;
  publish([...toasts.slice(-3), { id, tone, body }]);
  setTimeout(() => drop(id), wait);
}

const subscribe = (listener: () => void) => {
  listeners.add(listener);
  return () => listeners.delete(listener);
};

export function Toasts() {
  const { t } = useT();
  const list = useSyncExternalStore(subscribe, () => toasts);
  return (
    <div className="toasts" role="status" aria-live="polite">
      {list.map((item) => (
        <div key={item.id} className={`toast ${item.tone}`}>
          <div className="grow">{item.body}</div>
          <button type="button" className="btn ghost s icon" onClick={() => drop(item.id)} aria-label={t('action.close')}>
            <Icon name="close" size={14} />
          </button>
        </div>
      ))}
    </div>
  );
}
