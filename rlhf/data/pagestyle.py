"""How the HTML report looks: light and dark as the reader's system has it, and narrow enough for a phone."""

STYLE = """
:root { color-scheme: light dark; --back: #fff; --raised: #f5f6f8; --text: #1c2128; --dim: #5b6470; --line: #d9dde3;
  --bar: #3b76c4; --error: #b3261e; --error-back: #fbe9e7; --warning: #7a5200; --warning-back: #fff3d6;
  --good: #1b6e3c; --good-back: #e3f4e8; }
@media (prefers-color-scheme: dark) { :root { --back: #15181d; --raised: #1f242b; --text: #e6e9ed; --dim: #9aa4b0;
  --line: #353c46; --bar: #6ea3e8; --error: #ff9d94; --error-back: #44201d; --warning: #f2c265; --warning-back: #3d2f10;
  --good: #86d6a1; --good-back: #17361f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 68rem; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; } h2 { font-size: 1.25rem; margin: 0 0 .75rem; overflow-wrap: anywhere; }
h3 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
section { border-top: 1px solid var(--line); margin-top: 2.5rem; padding-top: 1.5rem; }
a { color: inherit; text-underline-offset: .3em; }
code, td.place { font: .875em/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
code { white-space: pre-wrap; }
.dim { color: var(--dim); }
.verdict, .badge { border-radius: .4rem; font-weight: 600; }
.verdict { padding: .6rem .9rem; margin: 0 0 1rem; } .badge { padding: .1rem .45rem; font-size: .8125rem; }
.error { color: var(--error); background: var(--error-back); }
.warning { color: var(--warning); background: var(--warning-back); }
.good { color: var(--good); background: var(--good-back); }
dl.numbers { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(46%, 14rem), 1fr)); gap: .6rem; margin: 0; }
dl.numbers div { background: var(--raised); border-radius: .4rem; padding: .5rem .75rem; }
dl.numbers div.wide { grid-column: 1 / -1; }
dt { color: var(--dim); font-size: .8125rem; } dd { margin: 0; font-weight: 600; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-size: .9375rem; }
th { color: var(--dim); font-size: .8125rem; font-weight: 600; }
th, td { text-align: left; vertical-align: top; padding: .45rem .75rem .45rem 0; border-bottom: 1px solid var(--line); }
td { overflow-wrap: anywhere; }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.place { min-width: 7rem; } td.place code { font-size: 1em; } td.whole, td.whole code, .badge { white-space: nowrap; }
details { border-bottom: 1px solid var(--line); padding: .5rem 0; } summary { cursor: pointer; }
details table { margin-top: .5rem; } details div { scroll-margin-top: 3rem; } details tr:last-child td { border-bottom: 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); gap: 1.5rem; }
figure { margin: 0; min-width: 0; } figcaption { font-weight: 600; margin-bottom: .25rem; overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--dim); font: 11px system-ui, sans-serif; }
svg rect { fill: var(--bar); } svg line { stroke: var(--line); }
@media (max-width: 40rem) {
  table.stack thead { display: none; }
  table.stack tr { display: block; border-bottom: 1px solid var(--line); padding: .5rem 0; }
  table.stack td { display: block; border: 0; padding: .1rem 0; text-align: left; white-space: normal; }
  table.stack td[data-label]::before { content: attr(data-label) " "; color: var(--dim); font: .8125rem system-ui; }
  table.stack td:empty { display: none; }
}
"""
