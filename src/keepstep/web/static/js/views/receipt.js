// The receipt of a resume: how exact it was, and what that is known from.

import { count, duration, name as clean, size } from "../format.js";

const LEVELS = {
  exact: "The same bits as without the interruption.",
  equivalent: "The same course; logs, cadence or last bits may differ.",
  approximate: "Another course from here on than without the interruption.",
};
const EVIDENCE = {
  proved: "Proved: what the interrupted attempt had logged came out again, bit for bit.",
  compared: "Compared: what was in memory after loading equals what was saved.",
  inferred: "Inferred: from the files' bytes and the settings alone.",
};

/** `exact, proved`. */
export const levelOf = (receipt) => [receipt.level, receipt.evidence].filter(Boolean).map(clean).join(", ");

/** What both words mean. */
export const meaning = (receipt) => [LEVELS[receipt.level], EVIDENCE[receipt.evidence]].filter(Boolean).join(" ");

/** Reasons, what was compared and what was observed, a sentence each. */
export function lines(receipt) {
  const reasons = listOf(receipt.reasons).map((one) => `${one.level}: ${one.text}`);
  const compared = receipt.compared ? [`compared: ${receipt.compared}`] : [];
  const course = receipt.course?.text ?? "";
  const told = !course || reasons.some((text) => text.includes(course));
  return [...brought(receipt.brought), ...reasons, ...compared, ...(told ? [] : [`${receipt.course.proved ? "proved" : "course"}: ${course}`])].map(clean);
}

function brought(found) {
  if (!found) return [];
  const line = `brought here from the mirror ${found.origin}: step ${count(found.step)}, ${size(found.size_bytes)} in ${duration(found.seconds)}, every byte compared`;
  return [line, ...listOf(found.passed_over).map((text) => `passed over there: ${text}`)];
}

const listOf = (things) => (Array.isArray(things) ? things : []);
