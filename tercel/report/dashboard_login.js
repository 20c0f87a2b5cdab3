// Proves once that the token is known; the cookie that comes back does so from then on.
const form = document.querySelector("form");
const said = form.querySelector("[role=status]");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const token = form.querySelector("input").value.trim();
  if (!/^[\x21-\x7e]+$/.test(token)) {
    said.textContent = "A token has printable ASCII characters only.";
    return;
  }
  try {
    const answer = await fetch("/login", { headers: { Authorization: `Bearer ${token}` } });
    if (answer.ok) return location.reload();
    said.textContent = answer.status === 401 ? "That is not the token." : `Refused (${answer.status}).`;
  } catch {
    said.textContent = "The dashboard does not answer.";
  }
});
