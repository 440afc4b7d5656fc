/** The queries of the pages, one place for their keys. */
import { QueryClient, keepPreviousData, queryOptions } from '@tanstack/react-query';
import { ApiError, get } from './client';
import { traceIdPath } from './jaeger';
import type { GraphView } from './types';

export const queryClient = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 1000,
      refetchOnWindowFocus: false,
      retry: (count, error) => !(error instanceof ApiError && error.status >= 400 && error.status < 500) && count < 2,
      placeholderData: keepPreviousData,
    },
  },
});

/** How often a live page asks again, in milliseconds; `false` while paused. */
export type Every = number | false;

export const q = {
  overview: (every: Every) =>
    queryOptions({ queryKey: ['overview'], queryFn: ({ signal }) => get('/api/malla/v1/overview', { signal }), refetchInterval: every }),
  telemetry: (every: Every) =>
    queryOptions({ queryKey: ['telemetry'], queryFn: ({ signal }) => get('/api/malla/v1/telemetry/status', { signal }), refetchInterval: every }),
  graph: (view: GraphView, window: number, end: number | undefined, namespaces: string, every: Every) =>
    queryOptions({
      queryKey: ['graph', view, window, end ?? null, namespaces],
      queryFn: ({ signal }) =>
        get('/api/malla/v1/graph', {
          query: { view, window, ...(end ? { end } : {}), ...(namespaces ? { namespaces } : {}) },
          signal,
        }),
      refetchInterval: every,
    }),
  services: (every: Every) =>
    queryOptions({ queryKey: ['services'], queryFn: ({ signal }) => get('/api/malla/v1/services', { signal }), refetchInterval: every }),
  service: (namespace: string, name: string, every: Every) =>
    queryOptions({
      queryKey: ['service', namespace, name],
      queryFn: ({ signal }) => get('/api/malla/v1/services/{namespace}/{name}', { path: { namespace, name }, signal }),
      refetchInterval: every,
    }),
  kinds: () =>
    queryOptions({ queryKey: ['kinds'], queryFn: ({ signal }) => get('/api/malla/v1/kinds', { signal }), staleTime: Infinity }),
  objects: (kind?: string, namespace?: string) =>
    queryOptions({
      queryKey: ['objects', kind ?? '', namespace ?? ''],
      queryFn: ({ signal }) => get('/api/malla/v1/objects', { query: { kind, namespace }, signal }),
      refetchInterval: 15_000,
    }),
  object: (kind: string, namespace: string, name: string) =>
    queryOptions({
      queryKey: ['object', kind, namespace, name],
      queryFn: ({ signal }) => get('/api/malla/v1/objects/{kind}/{namespace}/{name}', { path: { kind, namespace, name }, signal }),
    }),
  changes: (filter: { kind?: string; namespace?: string; name?: string } = {}) =>
    queryOptions({
      queryKey: ['changes', filter],
      queryFn: ({ signal }) => get('/api/malla/v1/changes', { query: filter, signal }),
    }),
  gateways: (every: Every) =>
    queryOptions({ queryKey: ['gateways'], queryFn: ({ signal }) => get('/api/malla/v1/gateways', { signal }), refetchInterval: every }),
  security: () =>
    queryOptions({ queryKey: ['security'], queryFn: ({ signal }) => get('/api/malla/v1/security', { signal }), refetchInterval: 15_000 }),
  proxies: (every: Every) =>
    queryOptions({ queryKey: ['proxies'], queryFn: ({ signal }) => get('/api/malla/v1/proxies', { signal }), refetchInterval: every }),
  proxyConfig: (namespace: string, pod: string) =>
    queryOptions({
      queryKey: ['proxyConfig', namespace, pod],
      queryFn: ({ signal }) => get('/api/malla/v1/proxies/{namespace}/{pod}/config', { path: { namespace, pod }, signal }),
      staleTime: 30_000,
    }),
  lessons: () =>
    queryOptions({ queryKey: ['lessons'], queryFn: ({ signal }) => get('/api/malla/v1/lessons', { signal }), refetchInterval: 10_000 }),
  jaegerServices: () =>
    queryOptions({ queryKey: ['jaegerServices'], queryFn: ({ signal }) => get('/jaeger/api/services', { signal }), staleTime: 30_000 }),
  jaegerOperations: (service: string) =>
    queryOptions({
      queryKey: ['jaegerOperations', service],
      queryFn: ({ signal }) => get('/jaeger/api/services/{service}/operations', { path: { service }, signal }),
      enabled: service !== '',
      staleTime: 30_000,
    }),
  trace: (traceId: string) =>
    queryOptions({
      queryKey: ['trace', traceId],
      queryFn: ({ signal }) => get('/jaeger/api/traces/{traceId}', { path: { traceId: traceIdPath(traceId) }, signal }),
      staleTime: 10_000,
    }),
};
