// Loaded before the page is drawn, so that it never flashes in the other theme: what was chosen, else what the system has.
{
  const system = matchMedia('(prefers-color-scheme: dark)');
  const follow = () => {
    let chosen = null;
    try { chosen = localStorage.getItem('theme'); } catch { /* storage is forbidden: nothing is remembered */ }
    document.documentElement.dataset.theme = chosen ?? (system.matches ? 'dark' : 'light');
  };
  system.addEventListener('change', follow);
  follow();
}
