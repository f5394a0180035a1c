// The sidebar tab "Sonic Queue". What it shows comes from the server when it is opened first (web/sidebar/tab.js).
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

let opened = null; // {host, end}

const isChinese = () => String(app.extensionManager.setting?.get("Comfy.Locale") ?? "").startsWith("zh");

/** ComfyUI calls this with the same element again and again. */
function render(host) {
  if (opened?.host === host) return;
  destroy();
  const mine = (opened = { host, end: () => {} });
  import(api.apiURL("/sonic/queue/page/sidebar/tab.js")).then(
    ({ openTab }) => {
      if (opened === mine) mine.end = openTab(host, { app, api, language: isChinese() ? "zh" : "en" });
    },
    () => {
      host.textContent = isChinese() ? "无法加载，请刷新页面。" : "The tab cannot be loaded. Reload the page.";
      if (opened === mine) opened = null;
    },
  );
}

function destroy() {
  opened?.end();
  opened = null;
}

app.registerExtension({
  name: "Sonic.Queue",
  setup() {
    if (!app.extensionManager?.registerSidebarTab) return; // a browser page of before 2024-09
    const title = isChinese() ? "Sonic 队列" : "Sonic Queue";
    app.extensionManager.registerSidebarTab({
      id: "sonic-queue",
      icon: "pi pi-video",
      title,
      tooltip: title,
      type: "custom",
      render,
      destroy,
    });
  },
});
