/** Server-sent events with a reconnect that the page can see. */

export type StreamState = 'connecting' | 'open' | 'lost';

/**
 * Follows `target` until the returned function is called. The browser reconnects by itself while the
 * server is briefly away; if it gives up (an HTTP error), we try again every `retryMs`.
 */
export function follow(
  target: string,
  handlers: Record<string, (data: unknown) => void>,
  onState: (state: StreamState) => void = () => {},
  retryMs = 3000,
): () => void {
  let source: EventSource | undefined;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let closed = false;

  const open = () => {
    onState('connecting');
    source = new EventSource(target);
    source.onopen = () => onState('open');
    source.onerror = () => {
      onState('lost');
      if (source?.readyState === EventSource.CLOSED && !closed) timer = setTimeout(open, retryMs);
    };
    for (const [name, handle] of Object.entries(handlers)) {
      source.addEventListener(name, (event) => {
        let data: unknown;
        try {
          data = JSON.parse((event as MessageEvent<string>).data);
        } catch {
          return; // half a message of a dying server
        }
        handle(data);
      });
    }
  };
  open();
  return () => {
    closed = true;
    clearTimeout(timer);
    source?.close();
  };
}
