/** A thin typed client over `openapi.yaml`: paths, parameters and answers are checked by the compiler. */
import type { paths } from './schema';

type Json<O> = O extends { responses: { 200: { content: { 'application/json': infer T } } } } ? T : never;
type Query<O> = O extends { parameters: { query?: infer Q } } ? Q : never;
type PathParams<O, P> = O extends { parameters: { path: infer Q } } ? Q : P extends { parameters: { path: infer Q } } ? Q : never;
type Body<O> = O extends { requestBody: { content: { 'application/json': infer B } } } ? B : undefined;
type With<M extends string> = { [P in keyof paths]: paths[P] extends { [K in M]: object } ? P : never }[keyof paths];
type Op<P extends keyof paths, M extends string> = paths[P] extends { [K in M]: infer O } ? O : never;

export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly field?: string,
    readonly fix?: string,
  ) {
    super(message);
  }
}

/** `/a/{b}` with parameters filled in and a query appended; `undefined` and empty values are left out. */
export function url(path: string, params?: Record<string, string>, query?: Record<string, unknown>): string {
  const filled = path.replace(/\{(\w+)\}/g, (_, key: string) => encodeURIComponent(params?.[key] ?? ''));
  const search = new URLSearchParams();
  for (const [key, value] of Object.entries(query ?? {})) {
    if (value !== undefined && value !== null && value !== '') search.set(key, String(value));
  }
  const text = search.toString();
  return text ? `${filled}?${text}` : filled;
}

async function failure(response: Response): Promise<ApiError> {
  const text = await response.text().catch(() => '');
  try {
    const { error } = JSON.parse(text) as { error: { code: string; message: string; field?: string; fix?: string } };
    return new ApiError(response.status, error.code, error.message, error.field, error.fix);
  } catch {
    return new ApiError(response.status, 'http', text.slice(0, 300) || response.statusText || String(response.status));
  }
}

async function send(method: string, target: string, init: RequestInit, signal?: AbortSignal): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(target, { ...init, method, signal: signal ?? null, credentials: 'same-origin' });
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') throw error;
    throw new ApiError(0, 'offline', error instanceof Error ? error.message : String(error));
  }
  if (!response.ok) throw await failure(response);
  return response;
}

export interface Options<O, P> {
  path?: PathParams<O, P>;
  query?: Query<O>;
  signal?: AbortSignal;
}

export async function get<P extends With<'get'>>(path: P, options: Options<Op<P, 'get'>, paths[P]> = {}): Promise<Json<Op<P, 'get'>>> {
  const target = url(path, options.path as Record<string, string>, options.query as Record<string, unknown>);
  const response = await send('GET', target, { headers: { accept: 'application/json' } }, options.signal);
  return (await response.json()) as Json<Op<P, 'get'>>;
}

export type Session = Json<Op<'/api/malla/v1/session', 'get'>>;
let session: Promise<Session> | undefined;

/** The session; asked once, because its token goes with every change. */
export function currentSession(fresh = false): Promise<Session> {
  if (!session || fresh) {
    session = get('/api/malla/v1/session');
    session.catch(() => { session = undefined; });
  }
  return session;
}

async function mutate(method: string, target: string, body: unknown): Promise<unknown> {
  const attempt = async (fresh: boolean) => {
    const { csrfToken } = await currentSession(fresh);
    const headers: Record<string, string> = { accept: 'application/json', 'x-csrf-token': csrfToken };
    if (body !== undefined) headers['content-type'] = 'application/json';
    const response = await send(method, target, { headers, body: body === undefined ? null : JSON.stringify(body) });
    return (await response.json()) as unknown;
  };
  try {
    return await attempt(false);
  } catch (error) {
    // The server was restarted and knows our token no longer.
    if (error instanceof ApiError && error.status === 403 && error.code === 'csrf') return attempt(true);
    throw error;
  }
}

export async function post<P extends With<'post'>>(
  path: P,
  options: Pick<Options<Op<P, 'post'>, paths[P]>, 'path'> & { body?: Body<Op<P, 'post'>> } = {},
): Promise<Json<Op<P, 'post'>>> {
  return (await mutate('POST', url(path, options.path as Record<string, string>), options.body)) as Json<Op<P, 'post'>>;
}

export async function del<P extends With<'delete'>>(
  path: P,
  options: Pick<Options<Op<P, 'delete'>, paths[P]>, 'path'>,
): Promise<Json<Op<P, 'delete'>>> {
  return (await mutate('DELETE', url(path, options.path as Record<string, string>), undefined)) as Json<Op<P, 'delete'>>;
}
