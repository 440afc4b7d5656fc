/** A table that sorts (the order is in the address), goes to rows by keyboard, and draws only visible rows when there are many. */
import { useVirtualizer } from '@tanstack/react-virtual';
import { useMemo, useRef } from 'react';
import type { MouseEvent, ReactNode } from 'react';
import { useLocation } from 'wouter';
import { useT } from '../i18n';
import { useParam } from '../lib/url';
import { Icon } from './icons';

export interface Column<R> {
  id: string;
  header: string;
  cell: (row: R) => ReactNode;
  /** What to sort by; without it the column does not sort. Numbers sort downwards first. */
  sort?: (row: R) => string | number | null;
  num?: boolean;
  /** `mid` is hidden on phones, `lo` on tablets too, `xlo` on all but wide screens. */
  keep?: 'mid' | 'lo' | 'xlo';
  width?: number;
}

interface Props<R> {
  columns: Column<R>[];
  rows: R[];
  rowKey: (row: R) => string;
  /** Where a click on the row goes; the first cell should hold the same link for the keyboard. */
  rowHref?: (row: R) => string;
  label: string;
  /** As `column.asc` or `column.desc`. */
  initialSort?: string;
  sortParam?: string;
  empty?: ReactNode;
}

function order<R>(rows: R[], columns: Column<R>[], spec: string): R[] {
  const [id, direction] = spec.split('.');
  const by = columns.find((c) => c.id === id)?.sort;
  if (!by) return rows;
  const sign = direction === 'desc' ? -1 : 1;
  return [...rows].sort((a, b) => {
    const x = by(a);
    const y = by(b);
    if (x === null || y === null) return x === y ? 0 : x === null ? 1 : -1;
    return sign * (typeof x === 'number' && typeof y === 'number' ? x - y : String(x).localeCompare(String(y), 'en', { numeric: true }));
  });
}

export function DataTable<R>({ columns, rows, rowKey, rowHref, label, initialSort = '', sortParam = 'sort', empty }: Props<R>) {
  const { t } = useT();
  const [, navigate] = useLocation();
  const [sort, setSort] = useParam(sortParam, initialSort);
  const sorted = useMemo(() => order(rows, columns, sort), [rows, columns, sort]);
  const scroller = useRef<HTMLDivElement>(null);
  const many = sorted.length > 120;
  const virtual = useVirtualizer({ count: many ? sorted.length : 0, getScrollElement: () => scroller.current, estimateSize: () => 37, overscan: 12 });
  const items = virtual.getVirtualItems();
  const before = many ? (items[0]?.start ?? 0) : 0;
  const after = many ? virtual.getTotalSize() - (items[items.length - 1]?.end ?? 0) : 0;
  const shown = many ? items.map((i) => sorted[i.index] as R) : sorted;
  const [sortId, direction] = sort.split('.');

  const toggle = (column: Column<R>) => {
    const first = column.num ? 'desc' : 'asc';
    setSort(sortId === column.id ? `${column.id}.${direction === 'asc' ? 'desc' : 'asc'}` : `${column.id}.${first}`);
  };
  const go = (event: MouseEvent, row: R) => {
    if (!rowHref || (event.target as HTMLElement).closest('a, button, input, label') || window.getSelection()?.toString()) return;
    if (event.metaKey || event.ctrlKey) window.open(rowHref(row), '_blank', 'noopener');
    else navigate(rowHref(row));
  };
  const className = (c: Column<R>) => `${c.num ? 'num ' : ''}${c.keep ?? ''}`;

  if (rows.length === 0 && empty) return <>{empty}</>;
  return (
    // Scrollable regions must be reachable by keyboard.
    // eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex
    <div className="tablewrap" ref={scroller} style={many ? { maxHeight: 'calc(100vh - 220px)', minHeight: 320 } : undefined} tabIndex={0} role="region" aria-label={label}>
      <table className="table" aria-rowcount={sorted.length}>
        <thead>
          <tr>
            {columns.map((c) => (
              <th key={c.id} scope="col" className={className(c)} style={c.width ? { width: c.width } : undefined} aria-sort={sortId === c.id ? (direction === 'desc' ? 'descending' : 'ascending') : undefined}>
                {c.sort ? (
                  <button type="button" onClick={() => toggle(c)} title={t('table.sort')}>
                    {c.header}
                    {sortId === c.id && <Icon name={direction === 'desc' ? 'down' : 'up'} size={12} />}
                  </button>
                ) : (
                  c.header
                )}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {before > 0 && <tr className="spacer" aria-hidden="true"><td colSpan={columns.length} style={{ height: before }} /></tr>}
          {shown.map((row) => (
             
            <tr key={rowKey(row)} className={rowHref ? 'go' : undefined} onClick={(e) => go(e, row)}>
              {columns.map((c) => <td key={c.id} className={className(c)}>{c.cell(row)}</td>)}
            </tr>
          ))}
          {after > 0 && <tr className="spacer" aria-hidden="true"><td colSpan={columns.length} style={{ height: after }} /></tr>}
        </tbody>
      </table>
    </div>
  );
}
