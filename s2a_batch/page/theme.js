// Light or dark before the first paint; what the person chose is kept by the browser.
"use strict";
(() => {
  const root = document.documentElement;
  const kept = () => { try { return localStorage.getItem("s2a-theme"); } catch { return null; } };
  root.dataset.theme = ["light", "dark"].includes(kept()) ? kept() : "system";
  globalThis.nextTheme = () => {
    const order = ["system", "light", "dark"];
    root.dataset.theme = order[(order.indexOf(root.dataset.theme) + 1) % order.length];
    try { localStorage.setItem("s2a-theme", root.dataset.theme); } catch { /* a browser that keeps nothing */ }
    return root.dataset.theme;
  };
})();
