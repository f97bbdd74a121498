"use strict";
// Narrows the list down. Without it the page has the whole list.
{
  const filter = document.getElementById("filter");
  const groups = [...document.querySelectorAll(".problem")].map((group) => ({
    group,
    name: group.dataset.problem,
    items: [...group.querySelectorAll(".item")],
  }));
  const names = new Set(groups.map(({ name }) => name));
  const texts = new Map(); // item or question -> what is searched, in lower case, from the first search on

  const wanted = (id) => document.getElementById(id)?.value.trim() ?? "";
  const has = (element, words) => {
    if (!texts.has(element)) texts.set(element, element.textContent.toLowerCase());
    return texts.get(element).includes(words);
  };

  const narrow = () => {
    const [status, reason, problem] = ["status", "reason", "problem"].map(wanted);
    const words = wanted("words").toLowerCase();
    let shown = 0;
    for (const { group, name, items } of groups) {
      const inGroup = names.has(problem) ? name === problem : name.includes(problem);
      const inQuestion = words === "" || (inGroup && has(group.querySelector(".about"), words));
      for (const item of items) {
        item.hidden = !(
          inGroup &&
          (status === "" || item.dataset.status === status) &&
          (reason === "" || item.dataset.reason === reason) &&
          (inQuestion || has(item, words))
        );
        shown += !item.hidden;
      }
      group.hidden = items.every((item) => item.hidden);
    }
    document.getElementById("shown").textContent = `${shown.toLocaleString("en")} shown`;
  };
  const setOpen = (open) => {
    for (const item of document.querySelectorAll(".item:not([hidden])")) item.open = open;
  };

  filter.addEventListener("input", narrow);
  document.getElementById("open").addEventListener("click", () => setOpen(true));
  document.getElementById("close").addEventListener("click", () => setOpen(false));
  filter.hidden = false;
  narrow(); // a reloaded page keeps what was chosen
}
