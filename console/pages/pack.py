"""The pack in three dimensions: a box for each series group of cells, coloured by temperature or voltage."""

from __future__ import annotations

from nicegui import ui

from console.connection_pool import StoreRow
from console.pack_layout import UNKNOWN, Cells, Quantity, cells_of, drawn_of, places
from console.pages.components import button, div, press, set_text, text

_VIEWS = {"Tilt": (2.6, -6.9, 6.0), "Top": (0.0, -0.01, 8.2), "Side": (0.0, -8.0, 1.2)}


class PackView:
    """Draws itself where it is made; `show` brings it up to a snapshot."""

    def __init__(self, row: StoreRow) -> None:
        self._row = row
        self._quantity: Quantity = "temperature"
        self._colours: list[str] = []
        self._labels: list[str] = []
        with div("row-wrap").style("justify-content:space-between;margin-bottom:8px"):
            with div("seg").props('role="group" aria-label="coloured by"'):
                self._choices = {
                    "temperature": button("Temperature", lambda: self._choose("temperature"), pressed=True, classes=""),
                    "voltage": button("Voltage", lambda: self._choose("voltage"), pressed=False, classes=""),
                }
            with div("seg").props('role="group" aria-label="point of view"'):
                for name in _VIEWS:
                    button(name, lambda _, view=name: self._look(view), classes="")
        with div("scene-box"):
            self._scene = ui.scene(width=640, height=330, grid=False, fps=20)
            self._scene.classes("w-full").props('role="img" aria-label="the cells of the pack"')
            tip = div("scene-tip").props(f'id="tip-{self._scene.id}"')
            tip.style("left:0;top:0")
        self._build(row)
        self._look("Tilt")
        ui.run_javascript(f"twin.hover({self._scene.id}, 'tip-{self._scene.id}')")
        with div("scale"):
            ui.element("i")
            self._ends = [text("", tag="span") for _ in range(3)]
        self._note = text("", "muted small")
        self.show(row)

    def show(self, row: StoreRow) -> None:
        """Colour the cells anew; what looks the same is not sent again."""
        self._row = row
        if drawn_of(row) != len(self._boxes):  # its data sheet has come
            self._scene.clear()
            self._build(row)
        cells = cells_of(row, self._quantity)
        for element, share in zip(self._ends, (0.0, 0.5, 1.0), strict=True):
            set_text(element, cells.at(share) if cells.values else "")
        set_text(self._note, cells.note)
        colours, labels = self._looks(cells)
        calls = self._material_calls(colours) + self._name_calls(labels)
        self._colours, self._labels = colours, labels
        if calls:
            # One message for all cells instead of one for each.
            self._scene.run_method("run_methods", calls)

    def _build(self, row: StoreRow) -> None:
        """With the scene's own methods: it repeats them where the browser has to build it anew."""
        with self._scene as scene:
            self._boxes = [scene.box(0.86, 0.8, 1.15).move(0.95 * x, 0.9 * y, 0.0) for x, y in places(drawn_of(row))]
        cells = cells_of(row, self._quantity)
        self._colours, self._labels = self._looks(cells)
        for box, colour, label in zip(self._boxes, self._colours, self._labels, strict=True):
            box.material(colour).with_name(label)

    def _looks(self, cells: Cells) -> tuple[list[str], list[str]]:
        """Colour and label of each box; what is not known any more must not keep the look of what was."""
        known = range(len(cells.values))
        missing = len(self._boxes) - len(known)
        colours = [*(cells.colour(index) for index in known), *[UNKNOWN[0]] * missing]
        return colours, [*(cells.label(index) for index in known), *[UNKNOWN[1]] * missing]

    def _material_calls(self, colours: list[str]) -> list[list[object]]:
        return [
            ["material", box.id, new, 1.0, "front"]
            for box, new, old in zip(self._boxes, colours, self._colours, strict=True)
            if old != new
        ]

    def _name_calls(self, labels: list[str]) -> list[list[object]]:
        return [
            ["name", box.id, new] for box, new, old in zip(self._boxes, labels, self._labels, strict=True) if old != new
        ]

    def _choose(self, quantity: Quantity) -> None:
        self._quantity = quantity
        for name, choice in self._choices.items():
            press(choice, name == quantity)
        self.show(self._row)

    def _look(self, view: str) -> None:
        x, y, z = _VIEWS[view]
        self._scene.move_camera(x=x, y=y, z=z, look_at_x=0, look_at_y=0, look_at_z=0, duration=0.3)
