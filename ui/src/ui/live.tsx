/** Time ranges and the live switch. `w` is the window in seconds, `end` a fixed end (unix seconds), `pause=1` stops the refreshing. */
import { useT } from '../i18n';
import { useParam, useSetParams } from '../lib/url';
import { Icon } from './icons';
import { Select } from './parts';

const windows = ['60', '300', '900', '3600', '21600', '86400'] as const;

export interface TimeView {
  window: number;
  end: number | undefined;
  /** For `refetchInterval`. */
  every: number | false;
  paused: boolean;
}

/** Between 5 s and a day, whatever the address says. */
export function useTime(fallback = '300', fastest = 5000): TimeView {
  const [w] = useParam('w', fallback);
  const [endText] = useParam('end');
  const [pause] = useParam('pause');
  const asked = Number(w);
  const window = Number.isFinite(asked) ? Math.min(86_400, Math.max(5, asked)) : Number(fallback);
  const at = Number(endText);
  const end = endText !== '' && Number.isFinite(at) ? at : undefined;
  const paused = pause === '1' || end !== undefined;
  const every = paused ? false : window <= 900 ? fastest : window <= 3600 ? Math.max(15_000, fastest) : 60_000;
  return { window, end, every, paused };
}

const pad = (n: number) => String(n).padStart(2, '0');
const toInput = (unix: number) => {
  const d = new Date(unix * 1000);
  return `${d.getFullYear()}-${pad(d.getMonth() + 1)}-${pad(d.getDate())}T${pad(d.getHours())}:${pad(d.getMinutes())}`;
};

export function TimeRange({ fallback = '300' }: { fallback?: string }) {
  const { t } = useT();
  const [w, setW] = useParam('w', fallback);
  const [end] = useParam('end');
  const [pause, setPause] = useParam('pause');
  const set = useSetParams();
  const options = windows.map((id) => ({ id: id as string, label: t(`range.${id}`) }));
  if (!options.some((o) => o.id === w)) options.push({ id: w, label: t('range.other', { seconds: w }) });
  const fixed = end !== '';
  return (
    <div className="row">
      <Select value={w} onChange={setW} label={t('range.label')} options={options} />
      {fixed && (
        <input
          type="datetime-local"
          className="input"
          aria-label={t('range.end')}
          value={toInput(Number(end))}
          onChange={(e) => {
            const at = new Date(e.target.value).getTime();
            if (Number.isFinite(at)) set({ end: String(Math.round(at / 1000)) });
          }}
        />
      )}
      <button
        type="button"
        className="btn icon"
        aria-pressed={fixed}
        aria-label={t('range.fix')}
        title={t('range.fix')}
        onClick={() => set(fixed ? { end: null } : { end: String(Math.round(Date.now() / 1000)), pause: null })}
      >
        <Icon name="clock" size={16} />
      </button>
      <button
        type="button"
        className="btn"
        disabled={fixed}
        aria-pressed={pause === '1'}
        title={pause === '1' ? t('live.resume') : t('live.pause')}
        onClick={() => setPause(pause === '1' ? '' : '1')}
      >
        <span className={`livedot${fixed || pause === '1' ? ' off' : ''}`} />
        {fixed || pause === '1' ? t('live.paused') : t('live.live')}
      </button>
    </div>
  );
}
