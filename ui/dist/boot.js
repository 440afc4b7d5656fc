// Runs before the first paint, so that a dark screen never flashes white.
(function () {
  var theme = null;
  try { theme = localStorage.getItem('malla.theme'); } catch (e) { /* storage may be closed */ }
  if (theme !== 'light' && theme !== 'dark') {
    theme = matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
  }
  document.documentElement.dataset.theme = theme;
})();
