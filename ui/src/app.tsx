/** Routes. Pages are chunks of their own, so that the first one is quick. */
import { Component, Suspense, lazy } from 'react';
import type { ReactNode } from 'react';
import { Route, Switch, useLocation } from 'wouter';
import { useT } from './i18n';
import { Overview } from './pages/overview';
import { Empty, Failure, Skeleton } from './ui/parts';
import { Shell } from './ui/shell';

const Topology = lazy(() => import('./topology/page'));
const Services = lazy(() => import('./pages/services'));
const Service = lazy(() => import('./pages/service'));
const Rules = lazy(() => import('./rules/list'));
const Rule = lazy(() => import('./rules/rule'));
const History = lazy(() => import('./rules/history'));
const Gateways = lazy(() => import('./pages/gateways'));
const Security = lazy(() => import('./pages/security'));
const Traces = lazy(() => import('./pages/traces'));
const Trace = lazy(() => import('./pages/trace'));
const Logs = lazy(() => import('./pages/logs'));
const Proxies = lazy(() => import('./pages/proxies'));
const Proxy = lazy(() => import('./pages/proxy'));
const Learn = lazy(() => import('./pages/learn'));

/** A page that fails takes only itself down; another address tries afresh. */
class Boundary extends Component<{ children: ReactNode; at: string }, { error: unknown; at: string }> {
  state = { error: undefined as unknown, at: this.props.at };
  static getDerivedStateFromError(error: unknown) {
    return { error };
  }
  static getDerivedStateFromProps(props: { at: string }, state: { at: string }) {
    return props.at === state.at ? null : { at: props.at, error: undefined };
  }
  render() {
    if (this.state.error === undefined) return this.props.children;
    return <Failure error={this.state.error} retry={() => window.location.reload()} />;
  }
}

function NotFound() {
  const { t } = useT();
  return <Empty icon="question" title={t('state.noPage')} actions={<a className="btn" href="/">{t('nav.overview')}</a>} />;
}

/** The n-th part of the address. Read from the raw address, because wouter decodes only half of it. */
function part(n: number): string {
  const text = window.location.pathname.split('/')[n] ?? '';
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export function App() {
  const [at] = useLocation();
  return (
    <Shell>
      <Boundary at={at}>
        <Suspense fallback={<Skeleton rows={6} height={20} />}>
          <Switch>
            <Route path="/"><Overview /></Route>
            <Route path="/topology"><Topology /></Route>
            <Route path="/services"><Services /></Route>
            <Route path="/services/:ns/:name">{() => <Service key={at} namespace={part(2)} name={part(3)} />}</Route>
            <Route path="/rules"><Rules /></Route>
            <Route path="/rules/history"><History /></Route>
            <Route path="/rules/new/:kind">{() => <Rule key={at} kind={part(3)} />}</Route>
            <Route path="/rules/:kind/:ns/:name">{() => <Rule key={at} kind={part(2)} namespace={part(3)} name={part(4)} />}</Route>
            <Route path="/gateways"><Gateways /></Route>
            <Route path="/security"><Security /></Route>
            <Route path="/traces"><Traces /></Route>
            <Route path="/traces/:id">{() => <Trace key={at} id={part(2)} />}</Route>
            <Route path="/logs"><Logs /></Route>
            <Route path="/proxies"><Proxies /></Route>
            <Route path="/proxies/:ns/:pod">{() => <Proxy key={at} namespace={part(2)} pod={part(3)} />}</Route>
            <Route path="/learn"><Learn id="" /></Route>
            <Route path="/learn/:id">{() => <Learn id={part(2)} />}</Route>
            <Route><NotFound /></Route>
          </Switch>
        </Suspense>
      </Boundary>
    </Shell>
  );
}
