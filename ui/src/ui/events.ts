/** Listens to the server's events and lets the queries they concern ask again. */
import { useQueryClient } from '@tanstack/react-query';
import { useEffect, useState } from 'react';
import { follow } from '../api/sse';
import type { StreamState } from '../api/sse';
import type { ObjectEvent } from '../api/types';

/** Which queries an event makes old. */
const stale: Record<string, string[]> = {
  object: ['objects', 'overview', 'service', 'gateways', 'security', 'graph'],
  change: ['changes', 'overview'],
  proxy: ['proxies', 'overview'],
  lesson: ['lessons'],
};

export function useEvents(): StreamState {
  const client = useQueryClient();
  const [state, setState] = useState<StreamState>('connecting');
  useEffect(() => {
    // Events come in bursts (twenty proxies acknowledge at once): ask at most twice a second.
    const waiting = new Set<string>();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const mark = (keys: string[]) => {
      keys.forEach((k) => waiting.add(k));
      timer ??= setTimeout(() => {
        timer = undefined;
        for (const key of waiting) void client.invalidateQueries({ queryKey: [key] });
        waiting.clear();
      }, 500);
    };
    const handlers = Object.fromEntries(
      Object.entries(stale).map(([event, keys]) => [
        event,
        (data: unknown) => {
          mark(keys);
          if (event === 'object') {
            const o = data as ObjectEvent;
            void client.invalidateQueries({ queryKey: ['object', o.kind, o.namespace, o.name] });
          }
        },
      ]),
    );
    const stop = follow('/api/malla/v1/events', handlers, setState);
    return () => {
      clearTimeout(timer);
      stop();
    };
  }, [client]);
  return state;
}
