// Sets the theme before the first paint. Classic script, loaded blocking in <head>; keep it tiny.
(function () {
  var chosen = null;
  try {
    chosen = localStorage.getItem('raydeck.theme');
  } catch (error) {
    chosen = null; // storage can be switched off; the system's preference then decides
  }
  var dark = window.matchMedia('(prefers-color-scheme: dark)').matches;
  document.documentElement.dataset.theme = chosen || (dark ? 'dark' : 'light');
})();
