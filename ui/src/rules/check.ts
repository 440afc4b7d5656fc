/** Asks the server what applying a text would do, once typing rests, and puts its answers on lines. */
import { useQuery } from '@tanstack/react-query';
import { useMemo } from 'react';
import { post } from '../api/client';
import type { CheckResult } from '../api/types';
import { useDebounced } from '../lib/hooks';
import type { Mark } from './editor';
import { lineOf, parse, parsePath } from './yamldoc';

export interface Checked {
  /** Of the text as it is now; absent while the server is asked. */
  result: CheckResult | undefined;
  marks: Mark[];
  pending: boolean;
  error: unknown;
}

const severity = { Error: 'error', Warning: 'warning', Info: 'info' } as const;

export function useCheck(text: string, enabled: boolean): Checked {
  const settled = useDebounced(text, 400);
  const parsed = useMemo(() => parse(text), [text]);
  const ask = enabled && parsed.problems.length === 0 && text.trim() !== '';
  const query = useQuery({
    queryKey: ['check', settled],
    queryFn: () => post('/api/malla/v1/objects:check', { body: { yaml: settled } }),
    enabled: ask && settled === text,
    staleTime: 5000,
    gcTime: 30_000,
    retry: false,
    placeholderData: undefined,
  });
  const current = settled === text ? query.data : undefined;
  const marks = useMemo<Mark[]>(() => {
    if (parsed.problems.length > 0) return parsed.problems.map((p) => ({ line: p.line, message: p.message, severity: 'error' }));
    const at = (path: string | undefined, line?: number) => line ?? (path ? lineOf(parsed, parsePath(path)) : null) ?? 1;
    return [
      ...(current?.errors ?? []).map((e): Mark => ({ line: at(e.path, e.line), message: e.path ? `${e.path}: ${e.message}` : e.message, severity: 'error' })),
      ...(current?.findings ?? []).map((f): Mark => ({ line: at(f.path), message: `${f.code} ${f.message}`, severity: severity[f.level] })),
    ];
  }, [parsed, current]);
  return { result: current, marks, pending: ask && !current && !query.error, error: query.error };
}
