/** A line diff as a table. */
import { useMemo } from 'react';
import { useT } from '../i18n';
import { diffLines, hunks, stat } from '../lib/diff';
import { Empty } from './parts';

const sign = { add: '+', del: '−', same: '' };

export function Diff({ before, after }: { before: string; after: string }) {
  const { t } = useT();
  const diff = useMemo(() => diffLines(before, after), [before, after]);
  const counts = stat(diff);
  if (counts.add + counts.del === 0) return <Empty icon="check" title={t('diff.none')} />;
  return (
    <div className="col">
      <p className="small muted">{t('diff.stat', counts)}</p>
      {/* eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex -- scrolls by keyboard */}
      <div className="diff" tabIndex={0} role="region" aria-label={t('diff.title')}>
        <table>
          <tbody>
            {hunks(diff).map((line, i) =>
              line === null ? (
                <tr key={i} className="gap"><td colSpan={4} aria-label={t('diff.gap')}>{'⋯'}</td></tr>
              ) : (
                <tr key={i} className={line.kind}>
                  <td className="ln">{line.before ?? ''}</td>
                  <td className="ln">{line.after ?? ''}</td>
                  <td className="sg">{sign[line.kind]}</td>
                  <td>{line.text}</td>
                </tr>
              ),
            )}
          </tbody>
        </table>
      </div>
    </div>
  );
}
