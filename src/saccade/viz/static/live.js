(() => {
  const { one } = heatmap;
  const [frame, text, bar] = [one("iframe"), one("[data-state]"), one("progress")];
  const [waiting, table] = [one("[data-waiting]"), one("[data-table]")];
  let shown = 0;
  let tabulated = "";
  // Before the first report: rows of texts, the first of which are the titles.
  const tabulate = (rows) => {
    if (tabulated === (tabulated = JSON.stringify(rows))) return;
    one("table").replaceChildren(...rows.map((cells, row) => {
      const line = document.createElement("tr");
      line.append(...cells.map((cell) => Object.assign(document.createElement(row ? "td" : "th"), { textContent: cell })));
      return line;
    }));
    waiting.hidden = true;
    table.hidden = shown > 0;
  };
  // Load the report again where it was scrolled to, unless the reader has selected a position in a map.
  const load = ({ report, state }) => {
    const view = frame.contentWindow;
    if (report === shown || (shown && state === "running" && view.saccade?.state.query)) return;
    const top = shown ? view.scrollY : 0;
    shown = report;
    frame.hidden = false;
    waiting.hidden = table.hidden = true;
    frame.addEventListener("load", () => view.scrollTo({ top, behavior: "instant" }), { once: true });
    view.location.replace(new URL("report.html", location));
  };
  const events = new EventSource("events");
  events.addEventListener("message", ({ data }) => {
    const state = JSON.parse(data);
    bar.value = state.fraction;
    if (state.text) text.textContent = state.text;
    if (state.table) tabulate(state.table);
    load(state);
    document.documentElement.dataset.state = state.state;
    if (state.state !== "running") events.close();
    if (state.state === "stopped") text.textContent = "The command was stopped. Run it again to continue.";
    if (state.state === "finished") document.title = document.title.replace(/: running$/, ": finished");
  });
  events.addEventListener("error", () => {
    if (events.readyState !== EventSource.CLOSED) text.textContent = "The command does not answer: it has ended, or the connection is interrupted.";
  });
})();
