// Browser-side code of the console: theme, appending to charts, table filter, and tooltip of the 3D pack view.
(() => {
  const KEY = "twin-theme";
  const twin = (window.twin = {});

  twin.isDark = () => {
    const chosen = localStorage.getItem(KEY);
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
  const applyTheme = () => {
    document.body.classList.toggle("body--dark", twin.isDark());
    document.body.classList.toggle("body--light", !twin.isDark());
    window.Quasar?.Dark?.set(twin.isDark());
    document.getElementById("nicegui-color-scheme")?.setAttribute("content", twin.isDark() ? "dark" : "light");
    paintAll();
  };
  twin.toggleTheme = () => {
    localStorage.setItem(KEY, twin.isDark() ? "light" : "dark");
    applyTheme();
  };
  addEventListener("load", () => setTimeout(applyTheme, 0));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", applyTheme);

  // Charts are drawn on canvas, where CSS does not apply: colours are resolved from CSS variables.
  const colour = (name) => getComputedStyle(document.body).getPropertyValue(`--${name}`).trim();
  const painted = new Map(); // element id -> {series id: {line: name, area: name, label: name}}
  const paint = (id) => {
    const chart = getElement(id)?.chart;
    if (!chart) return false;
    const series = Object.entries(painted.get(id)).map(([key, names]) => ({
      id: key,
      ...(names.line && { lineStyle: { color: colour(names.line) }, itemStyle: { color: colour(names.line) } }),
      ...(names.label && { label: { color: colour(names.label) } }),
      ...(names.area && { areaStyle: { color: colour(names.area) } }),
    }));
    const axis = {
      axisLine: { lineStyle: { color: colour("line") } },
      axisLabel: { color: colour("muted") },
      nameTextStyle: { color: colour("muted") },
      splitLine: { lineStyle: { color: colour("line") } },
    };
    const option = chart.getOption();
    chart.setOption({
      series,
      xAxis: option.xAxis.map(() => axis),
      yAxis: option.yAxis.map(() => axis),
      tooltip: { backgroundColor: colour("panel"), borderColor: colour("line"), textStyle: { color: colour("ink") } },
    });
    return true;
  };
  const paintAll = () => [...painted.keys()].forEach(paint);
  twin.paint = (id, names, tries = 40) => {
    painted.set(id, names);
    if (!paint(id) && tries) setTimeout(() => twin.paint(id, names, tries - 1), 100);
  };

  // Append points to the lines of a chart, {series id: [[ms, value], ...]}, and drop points older than the window.
  twin.append = (id, points, windowMs) => {
    const chart = getElement(id)?.chart;
    if (!chart) return;
    const series = [];
    for (const line of chart.getOption().series) {
      const added = points[line.id];
      if (!added?.length) continue;
      const data = line.data;
      for (const point of added) if (!data.length || point[0] > data[data.length - 1][0]) data.push(point);
      const oldest = data[data.length - 1][0] - windowMs;
      series.push({ id: line.id, data: data.filter((point) => point[0] >= oldest) });
    }
    if (series.length) chart.setOption({ series });
  };

  // The distance of ECharts' ticks on an axis of this length.
  const tickStep = (length, ticks) => {
    const power = 10 ** Math.floor(Math.log10(length / ticks));
    const [share] = [[1, 1.5], [2, 2.5], [3, 4], [5, 7], [10, Infinity]].find(([, below]) => length / ticks / power < below);
    return share * power;
  };
  // Limits of an axis over the data {min, max}: at least `span` and `fraction` of the values apart, on ticks, and not below
  // 0 for data that is not.
  twin.range = ({ min, max }, span, fraction = 0, ticks = 3) => {
    if (!isFinite(min) || !isFinite(max)) return [0, span || 1];
    const length = Math.max(span, fraction * Math.max(Math.abs(min), Math.abs(max)), max - min) || 1;
    const missing = (length - (max - min)) / 2;
    let [low, high] = [min - missing, max + missing];
    if (low < 0 && min >= 0) [low, high] = [0, Math.max(high, length)];
    for (let pass = 0; pass < 3; pass++) {
      const step = tickStep(high - low, ticks);
      [low, high] = [Math.floor(low / step + 1e-9) * step, Math.ceil(high / step - 1e-9) * step];
    }
    return [+low.toFixed(9), +high.toFixed(9)];
  };

  // Filter the fleet table by status; other column filters stay.
  twin.filterStatus = (id, status) => {
    const api = getElement(id).api;
    const { status: _, ...others } = api.getFilterModel();
    api.setFilterModel(status ? { ...others, status: { filterType: "text", type: "equals", filter: status } } : others);
  };
  // Minutes since the last reading as text.
  twin.elapsed = (minutes) => {
    if (minutes == null) return "–";
    if (minutes < 1) return minutes ? `${Math.round(minutes * 60)} s` : "now";
    return minutes < 60 ? `${minutes} min` : minutes < 1440 ? `${minutes / 60} h` : `${minutes / 1440} d`;
  };

  // Tooltip with the name of the cell under the pointer.
  twin.hover = async (sceneId, tipId, tries = 60) => {
    const scene = getElement(sceneId);
    if (!scene?.renderer || !scene?.camera) {
      if (tries) setTimeout(() => twin.hover(sceneId, tipId, tries - 1), 200);
      return;
    }
    scene.renderer.setClearColor(0x000000, 0); // transparent: the background follows the theme
    const { THREE } = await import("nicegui-scene");
    const tip = document.getElementById(tipId);
    const caster = new THREE.Raycaster();
    const canvas = scene.renderer.domElement;
    const show = (event) => {
      const box = canvas.getBoundingClientRect();
      const at = { x: ((event.clientX - box.left) / box.width) * 2 - 1, y: 1 - ((event.clientY - box.top) / box.height) * 2 };
      caster.setFromCamera(at, scene.camera);
      const hit = caster.intersectObjects(scene.scene.children, true).find((candidate) => candidate.object.name);
      tip.style.display = hit ? "block" : "none";
      if (!hit) return;
      tip.textContent = hit.object.name;
      tip.style.left = `${Math.min(event.clientX - box.left + 14, box.width - tip.offsetWidth - 4)}px`;
      tip.style.top = `${event.clientY - box.top + 14}px`;
    };
    canvas.addEventListener("pointermove", show);
    canvas.addEventListener("pointerleave", () => (tip.style.display = "none"));
  };
})();
