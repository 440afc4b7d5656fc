/** The live switch alone, for pages without a time range. */
import { useT } from '../i18n';
import { useParam } from '../lib/url';

export function useLive(every: number): { every: number | false } {
  const [pause] = useParam('pause');
  return { every: pause === '1' ? false : every };
}

export function TimeRangeLive() {
  const { t } = useT();
  const [pause, setPause] = useParam('pause');
  const paused = pause === '1';
  return (
    <button type="button" className="btn" aria-pressed={paused} title={paused ? t('live.resume') : t('live.pause')} onClick={() => setPause(paused ? '' : '1')}>
      <span className={`livedot${paused ? ' off' : ''}`} />
      {paused ? t('live.paused') : t('live.live')}
    </button>
  );
}
