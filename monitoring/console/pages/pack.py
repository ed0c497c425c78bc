"""The pack in three dimensions: a box for each series group of cells, coloured by temperature or voltage."""

from __future__ import annotations

from nicegui import ui

from monitoring.console.database import StoreRow
from monitoring.console.pack import Cells, Quantity, cells_of, count_of, places
from monitoring.console.pages.parts import button, div, press, set_text, text

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
        with self._scene as scene:
            self._boxes = [scene.box(0.86, 0.8, 1.15).move(0.95 * x, 0.9 * y, 0.0) for x, y in places(count_of(row))]
        self._draw_first(cells_of(row, self._quantity))
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
        cells = cells_of(row, self._quantity)
        for element, share in zip(self._ends, (0.0, 0.5, 1.0), strict=True):
            set_text(element, cells.at(share) if cells.values else "")
        set_text(self._note, cells.note)
        colours = [cells.colour(index) for index in range(len(cells.values))]
        labels = [cells.label(index) for index in range(len(cells.values))]
        calls = self._material_calls(colours) + self._name_calls(labels)
        self._colours, self._labels = colours, labels
        if calls:
            # One message for all cells instead of one for each.
            self._scene.run_method("run_methods", calls)

    def _draw_first(self, cells: Cells) -> None:
        """With the scene's own methods: it repeats them where the browser has to build it anew."""
        for index in range(len(cells.values)):
            self._boxes[index].material(cells.colour(index)).with_name(cells.label(index))
        self._colours = [cells.colour(index) for index in range(len(cells.values))]
        self._labels = [cells.label(index) for index in range(len(cells.values))]

    def _material_calls(self, colours: list[str]) -> list[list[object]]:
        return [
            ["material", box.id, new, 1.0, "front"]
            for index, (box, new) in enumerate(zip(self._boxes, colours, strict=False))
            if index >= len(self._colours) or self._colours[index] != new
        ]

    def _name_calls(self, labels: list[str]) -> list[list[object]]:
        return [
            ["name", box.id, new]
            for index, (box, new) in enumerate(zip(self._boxes, labels, strict=False))
            if index >= len(self._labels) or self._labels[index] != new
        ]

    def _choose(self, quantity: Quantity) -> None:
        self._quantity = quantity
        for name, choice in self._choices.items():
            press(choice, name == quantity)
        self.show(self._row)

    def _look(self, view: str) -> None:
        x, y, z = _VIEWS[view]
        self._scene.move_camera(x=x, y=y, z=z, look_at_x=0, look_at_y=0, look_at_z=0, duration=0.3)
