import { make } from "../elements/define.js";
export class TourRoom extends HTMLElement { connectedCallback() { this.append(make("h1", {}, "Tour")); } }
