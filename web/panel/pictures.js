// Small pictures of jobs, fetched when they come into sight, as an <img> can send no key.

import { blob, taskPath } from "./api.js";

const KEPT = 300;
const AT_ONCE = 4;

export class Pictures {
  #known = new Map(); // by job: the address of its picture, or null when there is none
  #wanted = [];
  #running = 0;
  #seen = new IntersectionObserver((entries) => entries.forEach((one) => one.isIntersecting && this.#want(one.target.firstElementChild)), {
    rootMargin: "200px",
  });

  /** Let an <img> show a job's picture once it is in sight. */
  of(image, taskId) {
    image.dataset.task = taskId;
    if (this.#known.has(taskId)) this.#draw(image);
    else this.#seen.observe(image.parentElement); // as what is hidden is never in sight
  }

  forget() {
    for (const address of this.#known.values()) if (address) URL.revokeObjectURL(address);
    this.#known.clear();
    this.#wanted = [];
  }

  #want(image) {
    this.#seen.unobserve(image.parentElement);
    this.#wanted.push(image);
    this.#next();
  }

  #next() {
    while (this.#running < AT_ONCE && this.#wanted.length) {
      const image = this.#wanted.shift();
      if (!image.isConnected) continue;
      this.#running += 1;
      this.#load(image).finally(() => {
        this.#running -= 1;
        this.#next();
      });
    }
  }

  async #load(image) {
    const taskId = image.dataset.task;
    if (!this.#known.has(taskId)) {
      try {
        const found = await blob(`${taskPath(taskId)}/thumbnail`);
        this.#known.set(taskId, found && URL.createObjectURL(found));
      } catch (problem) {
        if (problem.waitS) setTimeout(() => this.#want(image), problem.waitS * 1000);
        return;
      }
      for (const [old, address] of this.#known) {
        if (this.#known.size <= KEPT) break;
        this.#known.delete(old);
        if (address) URL.revokeObjectURL(address);
      }
    }
    this.#draw(image);
  }

  #draw(image) {
    const address = this.#known.get(image.dataset.task);
    if (address) image.src = address;
    image.hidden = !address;
  }
}
